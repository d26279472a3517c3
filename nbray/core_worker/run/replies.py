"""The replies of a worker: left by the threads that run tasks, sent in the next turn.

What is recorded of a task stands behind the write of its reply, for which its caller waits. A
failure is recorded in the turn of its reply: the process may crash next.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.run.returned_values import Making
from nbray.core_worker.run.run_counts import RunCounts
from nbray.core_worker.tasks import counted
from nbray.core_worker.tell.task_events import TaskEventLog
from nbray.wire import messages as m
from nbray.wire.connection import Connection
from nbray.wire.frames import UnsendableError
from nbray.wire.records import TaskSpec, Value, ids_in

logger = logging.getLogger(__name__)


class Replies:
    """What tasks have come to, and what becomes of their arguments and values with the reply.

    Args:
        errors: the values of a task whose own cannot be sent.
    """

    def __init__(
        self, table: OwnershipTable, borrowing: Borrowing, events: TaskEventLog, making: Making,
        counts: RunCounts, errors: Callable[[TaskSpec, Exception], list[Value]],
    ) -> None:  # fmt: skip
        self._table = table
        self._borrowing = borrowing
        self._events = events
        self._making = making
        self._counts = counts
        self._errors = errors
        self._left: deque[tuple[Connection, TaskSpec, m.TaskDone]] = deque()
        self._unrecorded: deque[tuple[TaskSpec, m.TaskDone]] = deque()

    def __bool__(self) -> bool:
        return bool(self._left)

    def add(self, connection: Connection, spec: TaskSpec, done: m.TaskDone) -> None:
        """A task has ended; from any thread."""
        if self._events.errors:
            done.cancelled = self._events.is_cancelled(spec.task_id)
        self._left.append((connection, spec, done))

    def drop(self, spec: TaskSpec, done: m.TaskDone) -> None:
        """A task ended whose reply nobody hears of."""
        self._making.drop(spec, done.values)

    def give_back(self, spec: TaskSpec) -> None:
        """A task goes back to its submitter, unrun: it holds its arguments no more."""
        self._events.running.pop(spec.task_id, None)
        for object_id in counted(spec):
            self._table.release(object_id)

    def turn(self) -> None:
        """Send what the main thread and others have left; under the baton."""
        if not self._left:
            return
        while self._left:
            connection, spec, done = self._left.popleft()
            try:
                if spec.dependencies or spec.contained:
                    submitter = connection.state.worker_id
                    send = partial(self._send, connection, spec, done)
                    self._borrowing.keep_arguments(spec, submitter, send)
                else:
                    self._send(connection, spec, done, [])
            except Exception as error:  # who waits for it hears that, and the others are not kept
                logger.exception("The reply of %s was not sent.", spec.name)
                connection.send(m.TaskDone(spec.task_id, self._errors(spec, error), 0.0))
        if self._events.errors:
            self.record()
            self._events.tell()
            self._counts.tell()

    def record(self) -> None:
        """Record the tasks that have been replied to; under the baton."""
        if not self._unrecorded:
            return
        unrecorded, ran, count = self._unrecorded, self._events.ran, self._counts.add
        while unrecorded:
            spec, done = unrecorded.popleft()
            ran(spec, done)
            count(spec, done)

    def _send(
        self, connection: Connection, spec: TaskSpec, done: m.TaskDone, kept: list[bytes]
    ) -> None:
        if kept:
            done.borrowed = tuple(kept)
        held: list[bytes] = []
        for value in done.values:
            if value.contained:
                held += ids_in(value.contained)
        try:
            connection.send(done)
        except UnsendableError as error:
            self._making.drop(spec, done.values)
            held = []
            done.values = self._errors(spec, error)
            connection.send(done)
        if held and connection.closed:
            self._table.note(held, -1)
        elif held:
            self._borrowing.hand_over(connection.state.worker_id, spec.task_id, held)
        self._unrecorded.append((spec, done))
