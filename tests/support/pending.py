"""Tasks and calls as their owner's machines get them."""

from __future__ import annotations

from nbray.common.ids import FIRST
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import ActorCall, Burst, PendingTask, PickledFunction
from nbray.wire.records import TaskSpec


def pending_task(spec: TaskSpec, options: TaskOptions) -> PendingTask:
    """A task that was just submitted."""
    function = PickledFunction(spec.function_id, b"", ())
    burst = Burst(function, spec.name, options, spec.job_id, spec.origin, spec.parent, spec.group)
    return PendingTask(
        options.retries, first=spec.task_id + FIRST, args=spec.args, burst=burst,
        dependencies=spec.dependencies, contained=spec.contained,
    )  # fmt: skip


def pending_call(spec: TaskSpec, options: TaskOptions) -> ActorCall:
    """A call that was just submitted."""
    return ActorCall(options.retries, spec=spec, options=options)
