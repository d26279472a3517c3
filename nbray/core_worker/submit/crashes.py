"""Why a worker died: its raylet tells who leased it, soon after the connection broke.

The connection to a dead worker breaks at once, and its raylet learns of the end from the
template some milliseconds later. So a submitter waits for the cause before it decides what
becomes of the tasks, but never longer than ``worker_death_wait_s``, and not at all when the
raylet has gone too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbray.wire.causes import Cause
from nbray.wire.connection import Connection
from nbray.wire.messages import WorkerDied

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

_KEPT = 64
Then = Callable[[Cause | None], None]


class Crashes:
    """The deaths that this process was told of, and those it waits to hear of."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._known: OrderedDict[bytes, Cause] = OrderedDict()
        self._waiting: dict[bytes, tuple[Connection, list[Then]]] = {}
        core.peers.handlers[WorkerDied] = self._on_died
        core.peers.on_closed.append(self._on_closed)

    def when_known(self, worker_id: bytes, raylet: Connection, then: Then) -> None:
        """Call ``then`` with the cause, or with None when it does not become known in time."""
        known = self._known.get(worker_id)
        if known is not None or raylet.closed:
            then(known)
            return
        self._waiting.setdefault(worker_id, (raylet, []))[1].append(then)
        limit = self._core.config.worker_death_wait_s
        self._core.reactor.call_later(limit, lambda: self._settle(worker_id, None))

    def _on_died(self, _raylet: Connection, message: WorkerDied) -> None:
        self._known[message.worker_id] = message.cause
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        self._settle(message.worker_id, message.cause)

    def _on_closed(self, connection: Connection) -> None:
        for worker_id, (raylet, _) in list(self._waiting.items()):
            if raylet is connection:
                self._settle(worker_id, None)

    def _settle(self, worker_id: bytes, cause: Cause | None) -> None:
        _, waiting = self._waiting.pop(worker_id, (None, []))
        for then in waiting:
            then(cause)
