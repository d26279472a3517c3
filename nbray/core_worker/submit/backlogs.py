"""How many tasks a lease request stands for, told again while it waits.

A request says it once, and then tasks run through the leases that were granted: twice a second the
raylets that have requests hear what the queues still hold, so that what runs is not counted as
waiting. A queue's tasks stand with the first raylet that it asks, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nbray.core_worker.tasks import QueueKey, TaskQueue
from nbray.wire.connection import Connection
from nbray.wire.messages import Backlog

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

_PERIOD_S = 0.5


class Backlogs:
    """Tells of the queues of a submitter. Under the baton."""

    def __init__(self, core: CoreWorker, queues: Mapping[QueueKey, TaskQueue]) -> None:
        self._core = core
        self._queues = queues
        self._scheduled = False
        self._told: dict[QueueKey, tuple[int, list[int]]] = {}

    def watch(self) -> None:
        """There are requests."""
        if not self._scheduled:
            self._scheduled = True
            self._core.reactor.call_later(_PERIOD_S, self._tell)

    def _tell(self) -> None:
        self._scheduled = False
        told: dict[QueueKey, tuple[int, list[int]]] = {}
        for key, queue in self._queues.items():
            if not queue.requests:
                continue
            told[key] = (len(queue.tasks), list(queue.requests))
            if told[key] != self._told.get(key):
                self._tell_of(queue)
        self._told = told
        if told:
            self.watch()

    def _tell_of(self, queue: TaskQueue) -> None:
        asked: dict[Connection, list[int]] = {}
        for request_id, raylet in queue.requests.items():
            asked.setdefault(raylet, []).append(request_id)
        count = len(queue.tasks)
        for raylet, request_ids in asked.items():
            raylet.send(Backlog(request_ids, count))
            count = 0
