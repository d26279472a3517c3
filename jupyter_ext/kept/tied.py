"""A remote cell that a keeper runs for this notebook, and that can be let loose while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from nbray.exceptions import NbrayError
from nbray.notebook import ObjectRef, TaskSays

from ..cell.run import Patience, RemoteRun
from ..messages import Summary
from . import space
from .following import error_of, failures_of
from .handing import NotKeptError, drop, let_loose, stop

_SHOWN_S = 10.0
_LOOK_S = 1.0


class TiedRun(RemoteRun):
    """Its refs are those of a task that brings what the keeper has; it is stopped there.

    Attributes:
        known_as: the names under which the keeper has it, the newest first.
        loose: whether it is detached: then it does not end with this notebook.
    """

    def __init__(
        self, kept_as: str, label: str, refs: Sequence[ObjectRef], inputs: Sequence[RemoteRun], *,
        source: str, sent_bytes: int, patience: Patience, tell: Callable[[TaskSays], None],
    ) -> None:  # fmt: skip
        """``tell``: is given what tasks of it told that failed."""
        self._over = threading.Event()
        super().__init__(
            label, refs, inputs, source=source, sent_bytes=sent_bytes, patience=patience
        )
        self.known_as = [kept_as]
        self.loose = False
        self._tell = tell
        self._shown = threading.Event()
        self._error: BaseException | None = None

    def follow(self, show: Callable[[], object]) -> None:
        """Show its output in a thread; when it has ended and is not loose, it is forgotten."""

        def serve() -> None:
            try:
                show()
                while not self._over.wait(_LOOK_S):
                    if self.is_lost():
                        return
                row = space.find(self.known_as[0])
                if row is not None:
                    self._error = error_of(row)
                    for told in failures_of(row):
                        self._tell(told)
                    if not self.loose:
                        drop(row)
            except (NbrayError, NotKeptError):  # the cluster has been left; it forgets by itself
                return
            finally:
                self._shown.set()

        threading.Thread(target=serve, name=f"nbray-{self.known_as[0]}", daemon=True).start()

    def _note_end(self) -> None:
        super()._note_end()
        self._over.set()

    def let_loose(self, name: str) -> None:
        """It is detached from now on, under this name.

        Raises:
            NotKeptError: the name is taken, or it has ended.
        """
        before = self.known_as
        self.known_as = [name, *before]
        try:
            let_loose(before[0], name)
        except NotKeptError:
            self.known_as = before
            raise
        self.loose = True

    def outcome(self, timeout: float | None = 0.0) -> list[Summary] | BaseException | None:
        """See `RemoteRun`; the error is the cell's own, not that of the task that brings it."""
        found = super().outcome(timeout)
        if isinstance(found, BaseException):
            self._shown.wait(_SHOWN_S)
            return self._error or found
        return found

    def wait(self, timeout: float | None = None) -> list[Summary]:
        """See `RemoteRun`; all of its output has been shown before."""
        found = super().wait(timeout)
        self._shown.wait(_SHOWN_S)
        return found

    def cancel(self, force: bool = False) -> None:
        """See `RemoteRun`."""
        self.told = True
        row = space.find(self.known_as[0])
        if row is not None and not row.is_over:
            stop(row, force)


def running(runs: Sequence[Any], number: str) -> RemoteRun | None:
    """The run of cell ``number`` that has not ended."""
    for run in reversed(runs):
        if run.label == f"In [{number}]" and run.state() == "running":
            return run if isinstance(run, RemoteRun) else None
    return None
