"""The file by which the tasks of one step find the first: it has the address of the GCS.

Ports are chosen by the system, so that users of one machine, and steps of one user, never meet at
one. The file stands in the home, which hosts of a Slurm cluster share, and is named by the step.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

_KEPT_S = 7 * 86400.0


class MeetingPoint:
    """The file of one step."""

    def __init__(self, key: str, home: Path | None = None) -> None:
        folder = (Path.home() if home is None else home) / ".nbray" / "steps"
        self.path = folder / f"{key}.json"

    def tell(self, address: str) -> None:
        """Write where the cluster is; readers see all of it or nothing.

        Raises:
            OSError: the home takes no file.
        """
        self._write({"address": address})

    def give_up(self) -> None:
        """Write that there will be none, so that nobody waits for it. The file stays.

        Raises:
            OSError: the home takes no file.
        """
        self._write({"address": "", "failed": True})

    @property
    def was_given_up(self) -> bool:
        """Whether the first task has said so."""
        try:
            return "failed" in json.loads(self.path.read_text())
        except (OSError, ValueError):
            return False

    def _write(self, said: dict[str, object]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in self.path.parent.glob("*.json"):  # of heads that were killed, or gave up
            if old.stat().st_mtime < time.time() - _KEPT_S:
                old.unlink(missing_ok=True)
        new = self.path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(said))
        new.rename(self.path)

    def ask(self) -> str:
        """The address; empty as long as nobody has written it.

        Raises:
            OSError: the home cannot be read.
        """
        try:
            # A file system of a network remembers for seconds that a file was not there; reading
            # the folder makes it look.
            if self.path.name not in os.listdir(self.path.parent):
                return ""
            return str(json.loads(self.path.read_text())["address"])
        except FileNotFoundError:
            return ""

    def forget(self) -> None:
        """The cluster ends."""
        self.path.unlink(missing_ok=True)
