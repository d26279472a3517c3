"""Which task this thread or coroutine runs."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskContext:
    """The task that user code stands in."""

    task_id: bytes
    name: str
    actor_id: bytes
    attempt: int


running: ContextVar[TaskContext | None] = ContextVar("nbray_running_task", default=None)
