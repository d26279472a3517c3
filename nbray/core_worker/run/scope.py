"""Which task a thread or coroutine of this worker runs, from its begin to its end."""

from __future__ import annotations

import time
from contextvars import Token
from typing import Protocol

from nbray.core_worker.context import TaskContext, running
from nbray.core_worker.identity import Identity
from nbray.core_worker.tell.task_events import TaskEventLog
from nbray.debugging.marks import HOLD
from nbray.wire.records import TaskSpec


class Printed(Protocol):
    """What is notified of tasks for the sake of what they print (`run.output`)."""

    def task_started(self) -> None:
        """A task begins."""

    def task_ended(self) -> None:
        """The task of this thread or coroutine ends."""


class Watching(Protocol):
    """What looks at the tasks of a cell that is profiled (`nbray.debugging.sampling`)."""

    def enter(self, task: TaskContext) -> None:
        """A task begins in this thread."""

    def leave(self, task: TaskContext) -> None:
        """It ends."""


class TaskScope:
    """Enters tasks and leaves them.

    Attributes:
        output: is there once the worker's output is captured.
        watching: looks at tasks whose origin has marks.
    """

    def __init__(self, me: Identity, events: TaskEventLog) -> None:
        self._me = me
        self._running = events.running
        self.output: Printed | None = None
        self.watching: Watching | None = None
        self._watched = False

    def enter(self, spec: TaskSpec) -> Token[TaskContext | None]:
        """What this thread or coroutine does from now on belongs to the task."""
        task = TaskContext(
            spec.task_id, spec.name, spec.actor_id, spec.attempt, spec.origin,
            spec.group or self._me.actor_group, spec.function_id, spec.method,
        )  # fmt: skip
        self._me.newest_task = task
        self._running[spec.task_id] = (spec, time.monotonic())
        if self.output is not None:
            self.output.task_started()
        token = running.set(task)
        if spec.origin >= HOLD and self.watching is not None:
            self._watched = True  # from now on, since threads may do this at once
            self.watching.enter(task)
        return token

    def leave(self, token: Token[TaskContext | None]) -> None:
        """The task has ended, but for its reply."""
        if self._watched:
            self._end_watching()
        if self.output is not None:
            self.output.task_ended()
        running.reset(token)

    def _end_watching(self) -> None:
        task = running.get()
        if task is not None and task.origin >= HOLD and self.watching is not None:
            self.watching.leave(task)
