"""Why a worker died: its raylet tells who leased it, soon after the connection broke.

The connection to a dead worker breaks at once, and its raylet learns of the end from the
template some milliseconds later. So a submitter waits for the cause before it decides what
becomes of the tasks, but never longer than ``worker_death_wait_s``, and not at all when the
raylet has gone too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from nbray.core_worker.decisions import Decisions, WakeAfter
from nbray.wire.causes import Cause
from nbray.wire.messages import WorkerDied

_KEPT = 64
Then = Callable[[Cause | None], None]


class Crashes:
    """The deaths that this process was told of, and those it waits to hear of. Pure."""

    def __init__(self, decisions: Decisions, wait_s: float) -> None:
        self._decisions = decisions
        self._wait_s = wait_s
        self._known: OrderedDict[bytes, Cause] = OrderedDict()
        self._waiting: dict[bytes, tuple[bytes, list[Then]]] = {}

    def when_known(self, worker_id: bytes, raylet: bytes, then: Then) -> None:
        """Call ``then`` with the cause, or with None when it does not become known in time.

        ``raylet``: the node whose raylet would know; empty when that has ended.
        """
        known = self._known.get(worker_id)
        if known is not None or not raylet:
            then(known)
            return
        self._waiting.setdefault(worker_id, (raylet, []))[1].append(then)
        self._decisions.append(WakeAfter(self._wait_s, lambda _now: self._settle(worker_id, None)))

    def worker_died(self, message: WorkerDied) -> None:
        """A raylet tells of a worker that this process had leased."""
        self._known[message.worker_id] = message.cause
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        self._settle(message.worker_id, message.cause)

    def raylet_gone(self, node_id: bytes) -> None:
        """A raylet has ended: it tells nothing any more."""
        for worker_id, (raylet, _) in list(self._waiting.items()):
            if raylet == node_id:
                self._settle(worker_id, None)

    def _settle(self, worker_id: bytes, cause: Cause | None) -> None:
        _, waiting = self._waiting.pop(worker_id, (b"", []))
        for then in waiting:
            then(cause)
