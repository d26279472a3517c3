"""Whether Ray's GCS is there: Ray ends the process of a driver that has lost it for a minute.

Who calls Ray meanwhile waits inside it, where no interrupt comes. So a thread knocks at the GCS's
port, says in the notebook what is going on, and the notebook's own calls are refused at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from nbray import exceptions

_KNOCK_S = 2.0


class GcsWatch:
    """Looks after the GCS of one cluster at a time.

    Args:
        knock: raises OSError if nobody listens at an address, HOST:PORT.
        tell: shows a line to the user.
    """

    def __init__(self, knock: Callable[[str], None], tell: Callable[[str], None]) -> None:
        self._knock = knock
        self._tell = tell
        self._watched: threading.Event | None = None
        self._gone = ""

    def begin(self, address: str) -> None:
        """The kernel is in the cluster whose GCS is there."""
        self._gone = ""
        self._watched = ended = threading.Event()
        threading.Thread(
            target=self._serve, args=(address, ended), name="nbray-ray-gcs", daemon=True
        ).start()

    def end(self) -> None:
        """The kernel leaves the cluster."""
        if self._watched is not None:
            self._watched.set()
        self._watched, self._gone = None, ""

    def check(self) -> None:
        """To be called before Ray is.

        Raises:
            NbrayError: the GCS is away, and a call would wait for it.
        """
        if self._gone:
            raise exceptions.NbrayError(self._gone)

    def _serve(self, address: str, ended: threading.Event) -> None:
        while not ended.wait(_KNOCK_S):
            try:
                self._knock(address)
            except OSError as error:
                if not self._gone and not ended.is_set():
                    self._gone = (
                        f"Ray's GCS at {address} has gone ({error}). Unless it comes back, Ray "
                        "ends this kernel, with all its values, within a minute: %nbray stop "
                        "leaves the cluster before, and keeps what is in the notebook."
                    )
                    self._tell(self._gone)
            else:
                if self._gone and not ended.is_set():
                    self._gone = ""
                    self._tell(f"Ray's GCS at {address} answers again.")
