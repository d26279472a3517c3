"""Calls that wait in an actor for the good of their callers, who may end meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nbray.wire.records import Address

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker
    from nbray.wire.connection import Connection


class CallerEnds:
    """Tells of the ends of processes that have called this one."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._watched: dict[bytes, dict[int, Callable[[], None]]] = {}
        core.peers.on_closed.append(self._closed)

    def watch(self, worker_id: bytes, number: int, tell: Callable[[], None]) -> None:
        """Have ``tell`` called under the baton when that process has ended, perhaps at once."""
        if not worker_id:
            return  # it did not say who it is
        self._watched.setdefault(worker_id, {})[number] = tell
        if self._core.peers.find(worker_id) is None:
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
