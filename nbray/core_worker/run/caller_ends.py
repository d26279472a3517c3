"""Calls that wait in an actor for the good of their callers, who may end meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from nbray.wire.connection import Connection
from nbray.wire.records import Address


class CallerEnds:
    """Tells of the ends of processes that have called this one."""

    def __init__(
        self, find: Callable[[bytes], Connection | None],
        on_closed: list[Callable[[Connection], None]],
    ) -> None:  # fmt: skip
        """``find`` gives the connection to a process; ``on_closed`` are notified of ends."""
        self._find = find
        self._watched: dict[bytes, dict[int, Callable[[], None]]] = {}
        on_closed.append(self._closed)

    def watch(self, worker_id: bytes, number: int, tell: Callable[[], None]) -> None:
        """Have ``tell`` called under the baton when that process has ended, perhaps at once."""
        if not worker_id:
            return  # it did not say who it is
        self._watched.setdefault(worker_id, {})[number] = tell
        if self._find(worker_id) is None:
            tell()

    def forget(self, worker_id: bytes, number: int) -> None:
        """What was to be told under that number is not wanted any more."""
        watched = self._watched.get(worker_id)
        if watched is not None:
            watched.pop(number, None)
            if not watched:
                self._watched.pop(worker_id, None)

    def _closed(self, connection: Connection) -> None:
        if isinstance(connection.state, Address):
            for tell in list(self._watched.get(connection.state.worker_id, {}).values()):
                tell()
