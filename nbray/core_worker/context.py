"""Which task this thread or coroutine runs, and what its submissions belong to."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import msgspec

from nbray.wire.strategies import InGroup


class TaskContext(msgspec.Struct, frozen=True, gc=False):
    """The task that user code stands in; of a call, the method, else the function's id."""

    task_id: bytes
    name: str
    actor_id: bytes
    attempt: int
    origin: int
    group: InGroup | None
    function_id: bytes
    method: str


running: ContextVar[TaskContext | None] = ContextVar("nbray_running_task", default=None)

origin: ContextVar[int] = ContextVar("nbray_origin", default=0)
"""In a driver: what this thread's or coroutine's submissions belong to (see `TaskSpec`)."""

_find_origin: Callable[[], int] = lambda: 0  # noqa: E731 - typed, and replaced by a setter


def set_origin_finder(find: Callable[[], int]) -> None:
    """``find`` is asked in threads that know no origin."""
    global _find_origin
    _find_origin = find


def origin_outside_tasks() -> int:
    """What a submission belongs to that no task makes."""
    return origin.get() or _find_origin()


def current_origin() -> int:
    """What a submission that is made now belongs to."""
    task = running.get()
    return task.origin if task is not None else origin_outside_tasks()
