"""How many tasks a lease request stands for, told again while it waits.

A request says it once, and then tasks run through the leases that were granted: twice a second the
raylets that have requests hear what the queues still hold, so that what runs is not counted as
waiting. A queue's tasks stand with the first raylet that it asks, once.
"""

from __future__ import annotations

from collections.abc import Mapping

from nbray.core_worker.decisions import Decisions, ToRaylet, WakeAfter
from nbray.core_worker.submit.queues import TaskQueue
from nbray.core_worker.task_options import QueueKey
from nbray.wire.messages import Backlog

_PERIOD_S = 0.5


class Backlogs:
    """Tells raylets of what changed. Pure."""

    def __init__(self, decisions: Decisions, queues: Mapping[QueueKey, TaskQueue]) -> None:
        self._decisions = decisions
        self._queues = queues
        self._scheduled = False
        self._told: dict[QueueKey, tuple[int, list[int]]] = {}

    def watch(self) -> None:
        """There are requests."""
        if not self._scheduled:
            self._scheduled = True
            self._decisions.append(WakeAfter(_PERIOD_S, self._tell))

    def _tell(self, _now: float) -> None:
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
        asked: dict[bytes, list[int]] = {}
        for request_id, raylet in queue.requests.items():
            asked.setdefault(raylet, []).append(request_id)
        count = len(queue.tasks)
        for raylet, request_ids in asked.items():
            self._decisions.append(ToRaylet(raylet, Backlog(request_ids, count)))
            count = 0
