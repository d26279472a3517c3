"""Which task a thread or coroutine of this worker runs, from its begin to its end."""

from __future__ import annotations

import time
from contextvars import Token
from typing import Protocol

from nbray.core_worker.context import TaskContext, running
from nbray.core_worker.identity import Identity
from nbray.core_worker.tell.task_events import TaskEventLog
from nbray.wire.records import TaskSpec


class Printed(Protocol):
    """What is notified of tasks for the sake of what they print (`run.output`)."""

    def task_started(self) -> None:
        """A task begins."""

    def task_ended(self) -> None:
        """The task of this thread or coroutine ends."""


class TaskScope:
    """Enters tasks and leaves them; ``output`` is there once the worker's output is captured."""

    def __init__(self, me: Identity, events: TaskEventLog) -> None:
        self._me = me
        self._running = events.running
        self.output: Printed | None = None

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
        return running.set(task)

    def leave(self, token: Token[TaskContext | None]) -> None:
        """The task has ended, but for its reply."""
        if self.output is not None:
            self.output.task_ended()
        running.reset(token)
