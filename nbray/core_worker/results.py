"""How tasks end: their objects are completed, and their arguments let go."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nbray import cloudpickle
from nbray.common.ids import TaskID, return_id
from nbray.core_worker.own.table import ObjectEntry
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tell.task_events import LONG_S
from nbray.core_worker.values.arguments import counted
from nbray.core_worker.values.serialization import deserialize, serialize
from nbray.core_worker.values.shared_errors import share
from nbray.exceptions import TaskCancelledError, TaskError, WorkerCrashedError
from nbray.wire import messages as m
from nbray.wire.causes import Cause
from nbray.wire.records import ContainedRef, Stored, TaskSpec, Value

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker
    from nbray.core_worker.submit.calls import ActorCall
    from nbray.core_worker.tasks import PendingTask


logger = logging.getLogger(__name__)


class Results:
    """The ends of the tasks that this process submitted. All of it runs under the baton."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core

    def finish(self, task: PendingTask | ActorCall, worker_id: bytes, done: m.TaskDone) -> None:
        """Complete a task's objects and let go of its arguments."""
        core, spec = self._core, task.spec
        core.counts.ended(spec, done.failed(), done.cancelled)
        if done.seconds >= LONG_S:
            core.events.finished(task)
        references = core.references
        for object_id in done.borrowed:
            references.kept_by(object_id, worker_id)
        handed_over: list[ContainedRef] = []
        any_refs = False
        values = done.values
        if len(values) != spec.return_count():
            values = self._one_for_each(spec, values)
        for index, value in enumerate(values):
            object_id = return_id(spec.task_id, index)
            any_refs = any_refs or bool(value.contained)
            entry = references.table.get(object_id)
            if entry is None:
                references.free(object_id, value)
                continue
            if value.contained and entry.value is None:
                references.contains(entry, value)
                handed_over += value.contained
            self._complete(object_id, entry, value)
            if value.stored is not None:
                core.lineage.keep(task, object_id, entry)
            if entry.local <= 0:
                references.release(object_id)
        if spec.num_returns < 0:
            core.streams.finish(task, done)
        if any_refs:
            references.take_over(handed_over, lambda: self._handover_done(spec, worker_id))
        self._let_go_of_arguments(spec)
        core.submitter_dirty = True

    def _one_for_each(self, spec: TaskSpec, values: list[Value]) -> list[Value]:
        """A value for each object: an error is the rest's, too, or an item of a stream."""
        count = spec.return_count()
        if not values or len(values) > count:
            return values[:count]
        error = share(self._core, spec, len(values) - 1, values[-1])
        return values + [error] * (count - len(values))

    def _complete(self, object_id: bytes, entry: ObjectEntry, value: Value) -> None:
        if value.stored is None and entry.stale_nodes:  # what an earlier attempt has left
            self._core.references.free(object_id, Value(None, Stored(0, entry.stale_nodes)))
        self._core.table.complete(object_id, value)

    def _handover_done(self, spec: TaskSpec, worker_id: bytes) -> None:
        connection = self._core.peers.find(worker_id)
        if connection is not None:
            connection.send(m.HandoverDone(spec.task_id))

    def _let_go_of_arguments(self, spec: TaskSpec) -> None:
        if spec.dependencies or spec.contained or spec.actor_id:
            self._core.references.note(counted(spec), -1)

    def is_retriable(self, done: m.TaskDone, options: TaskOptions) -> bool:
        """Whether a task that raised is to be run again, by its ``retry_exceptions``."""
        wanted = options.retry_exceptions
        if isinstance(wanted, bool):
            return wanted
        if done.raised:
            return _is_one_of(done.raised, wanted)
        value = done.values[-1] if done.values else None
        if value is None or value.inline is None:
            return False
        error = deserialize(value.inline, None)
        return isinstance(error, TaskError) and isinstance(error.cause, wanted)

    def forget_attempt(self, spec: TaskSpec, worker_id: bytes, done: m.TaskDone) -> None:
        """A task is run again: nobody will hold the refs that stand in what it raised."""
        core = self._core
        for index, value in enumerate(done.values):
            if value.stored is None:
                continue
            entry = core.table.get(return_id(spec.task_id, index))
            if entry is None:
                core.references.free(return_id(spec.task_id, index), value)
            else:
                entry.stale_nodes = [*(entry.stale_nodes or ()), *value.stored.node_ids]
        if any(value.contained for value in done.values):
            self._handover_done(spec, worker_id)

    def fail(self, spec: TaskSpec, error: Exception) -> None:
        """Complete a task's objects with ``error``."""
        self._core.counts.ended(spec, True, isinstance(error, TaskCancelledError))
        self._core.events.failed(spec, error)
        value = Value(serialize(error).to_bytes(), None, True)
        if spec.num_returns < 0:
            self._core.streams.failed(spec, value)
        for index in range(spec.return_count()):
            object_id = return_id(spec.task_id, index)
            entry = self._core.table.get(object_id)
            if entry is not None:
                self._complete(object_id, entry, value)
        self._let_go_of_arguments(spec)

    def fail_cancelled(self, spec: TaskSpec) -> None:
        """The task was cancelled before it started."""
        self.fail(spec, TaskCancelledError.of(TaskID(spec.task_id), spec.name))

    def fail_crashed(self, spec: TaskSpec, cause: Cause) -> None:
        """The task's worker died and no retry is left."""
        error = WorkerCrashedError(
            "The worker died unexpectedly while executing this task, and no retry is left.\n"
            f"Task {spec.name}: {cause}"
        )
        self.fail(spec, error.with_facts(cause))


def _is_one_of(pickled: bytes, classes: tuple[type[BaseException], ...]) -> bool:
    try:
        return issubclass(cloudpickle.loads(pickled), classes)
    except Exception as problem:  # it cannot be found here, or the user's code raised
        logger.info("The class of an exception cannot be read, so it is not retried: %s", problem)
        return False
