"""Tasks and calls as their owner's machines get them."""

from __future__ import annotations

from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import ActorCall, PendingTask, PickledFunction
from nbray.wire.records import TaskSpec

_FUNCTION = PickledFunction(b"", b"", ())


def pending_task(spec: TaskSpec, options: TaskOptions) -> PendingTask:
    """A task that was just submitted."""
    return PendingTask(spec, options, options.retries, function=_FUNCTION, key=options.key)


def pending_call(spec: TaskSpec, options: TaskOptions) -> ActorCall:
    """A call that was just submitted."""
    return ActorCall(spec, options, options.retries)
