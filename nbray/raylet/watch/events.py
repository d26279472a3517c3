"""The tasks of this node: rings of those that ended, and its processes' word on the others.

Those that failed, the long and the short have a ring each, so that many short ones do not push out
what went wrong, or what took time; so has what owners know of the long ones. Unfinished tasks are
asked for when somebody wants to know. What the node remembers is forgotten with it.
"""

from __future__ import annotations

from collections import deque

from nbray.common.ids import TaskID
from nbray.raylet.process import Process
from nbray.raylet.watch.inquiries import Inquiries
from nbray.wire.records import TaskEvent
from nbray.wire.state_messages import Tasks, TaskSource, TasksRequest
from nbray.wire.watching_messages import TaskEvents, TasksTold, TellTasks

_Ring = deque[tuple[TaskSource, TaskEvent]]
_LONG_S = 0.01
_LATE_S = 5.0  # by so much may what a process tells be older than what another told before


class TaskEventRing:
    """Keeps at most ``kept`` tasks of each kind."""

    def __init__(self, node_id: bytes, inquiries: Inquiries, kept: int) -> None:
        self._node_id = node_id
        self._inquiries = inquiries
        self._failed: _Ring = deque(maxlen=kept)
        self._long: _Ring = deque(maxlen=kept)
        self._short: _Ring = deque(maxlen=kept)
        self._owned: _Ring = deque(maxlen=kept)
        self._dropped = 0

    def record(self, process: Process, events: TaskEvents) -> None:
        """Keep what a process reports of tasks that ended."""
        source = self._source(process)
        self._dropped += events.dropped
        for event in events.rows:
            ring = self._ring_of(event)
            if len(ring) == ring.maxlen and event.state:
                self._dropped += 1
            ring.append((source, event))

    def _ring_of(self, event: TaskEvent) -> _Ring:
        if not event.state:  # its worker's word stands in another ring
            return self._owned
        if event.state == "FAILED":
            return self._failed
        return self._long if event.ended - event.started >= _LONG_S else self._short

    async def list_tasks(self, request: TasksRequest) -> Tasks:
        """Every task of this node that is remembered or unfinished."""
        answers = await self._inquiries.ask_all(
            lambda number: TellTasks(number, request.limit, request.job_id, request.origin)
        )
        silent = sum(answer is None for _process, answer in answers)
        reply = Tasks([], [], dropped=self._dropped, silent=silent)
        numbers: dict[int, int] = {}

        def add(source: TaskSource, event: TaskEvent) -> None:
            number = numbers.get(id(source))
            if number is None:
                number = numbers[id(source)] = len(reply.sources)
                reply.sources.append(source)
            reply.rows.append((number, event))

        told: TasksTold | None
        for process, told in answers:
            if told is None:
                continue
            source = self._source(process)
            for event in told.rows:
                if _is_of(event, request.of):
                    add(source, event)
            for name, count in told.unfinished.items():
                reply.unfinished[name] = reply.unfinished.get(name, 0) + count
        for ring in (self._failed, self._long, self._short, self._owned):
            left = request.limit
            for source, event in reversed(ring):
                if event.ended <= request.since - _LATE_S or not left:
                    break
                if _is_wanted(event, request):
                    add(source, event)
                    left -= 1
        return reply

    def _source(self, process: Process) -> TaskSource:
        if process.source is None:
            process.source = TaskSource(self._node_id, process.worker_id, process.pid)
        return process.source


def _is_wanted(event: TaskEvent, request: TasksRequest) -> bool:
    return (
        event.ended > request.since
        and request.job_id in (b"", event.job_id)
        and request.origin in (0, event.origin)
        and _is_of(event, request.of)
    )


def _is_of(event: TaskEvent, of: bytes) -> bool:
    return not of or (
        event.task_id.startswith(of)
        or event.parent.startswith(of)
        or event.actor_id == of
        or (len(of) == TaskID.SIZE and of in event.needs)
    )
