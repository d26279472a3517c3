"""The tasks of this node: a ring of those that ended, and its processes' word on the others.

Two rings, of those that finished and of those that failed, so that many that finish do not
push out what went wrong. Unfinished tasks are asked for when somebody wants to know. What
the node remembers is forgotten with it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable

from nbray.raylet.leases import Process
from nbray.wire.messages import TaskEvent, TaskEvents, TasksTold, TellTasks
from nbray.wire.state_messages import Tasks, TaskSource, TasksRequest

_ANSWER_S = 2.0


class TaskEventRing:
    """Keeps at most ``kept`` ended tasks, and as many that failed."""

    def __init__(self, node_id: bytes, processes: Iterable[Process], kept: int) -> None:
        self._node_id = node_id
        self._processes = processes
        self._finished: deque[tuple[TaskSource, TaskEvent]] = deque(maxlen=kept)
        self._failed: deque[tuple[TaskSource, TaskEvent]] = deque(maxlen=kept)
        self._dropped = 0
        self._requests = itertools.count(1)
        self._waiting: dict[int, tuple[Process, asyncio.Future[TasksTold | None]]] = {}

    def told(self, process: Process, events: TaskEvents) -> None:
        """A process tells what ended."""
        source = self._source(process)
        self._dropped += events.dropped
        for event in events.rows:
            ring = self._failed if event.state == "FAILED" else self._finished
            if len(ring) == ring.maxlen:
                self._dropped += 1
            ring.append((source, event))

    def answered(self, message: TasksTold) -> None:
        """A process tells what has not ended."""
        _process, future = self._waiting.get(message.request_id, (None, None))
        if future is not None and not future.done():
            future.set_result(message)

    def process_gone(self, process: Process) -> None:
        """A connection ended: nobody waits for its answer any more."""
        for asked, future in self._waiting.values():
            if asked is process and not future.done():
                future.set_result(None)

    async def list_tasks(self, request: TasksRequest) -> Tasks:
        """Every task of this node that is remembered or unfinished."""
        asked = [process for process in self._processes if process.worker_id]
        answers = await asyncio.gather(*(self._ask(process, request) for process in asked))
        reply = Tasks([], [], dropped=self._dropped, silent=answers.count(None))
        numbers: dict[int, int] = {}

        def add(source: TaskSource, event: TaskEvent) -> None:
            number = numbers.get(id(source))
            if number is None:
                number = numbers[id(source)] = len(reply.sources)
                reply.sources.append(source)
            reply.rows.append((number, event))

        for process, answer in zip(asked, answers, strict=True):
            source = self._source(process)
            for event in answer.rows if answer is not None else ():
                add(source, event)
            for name, count in answer.unfinished.items() if answer is not None else ():
                reply.unfinished[name] = reply.unfinished.get(name, 0) + count
        for ring in (self._failed, self._finished):
            left = request.limit
            for source, event in reversed(ring):
                if event.ended <= request.since or not left:
                    break
                if _is_wanted(event, request):
                    add(source, event)
                    left -= 1
        return reply

    def _source(self, process: Process) -> TaskSource:
        if process.source is None:
            process.source = TaskSource(self._node_id, process.worker_id, process.pid)
        return process.source

    async def _ask(self, process: Process, request: TasksRequest) -> TasksTold | None:
        number = next(self._requests)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = (process, future)
        process.send(TellTasks(number, request.limit, request.job_id, request.origin))
        try:
            return await asyncio.wait_for(future, _ANSWER_S)
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]


def _is_wanted(event: TaskEvent, request: TasksRequest) -> bool:
    return request.job_id in (b"", event.job_id) and request.origin in (0, event.origin)
