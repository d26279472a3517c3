"""The ref arguments of tasks and calls: waited for before those are sent to a worker.

A task whose arguments are not all there takes no worker. That holds for lost ones, too, since their
makers may need what the task would hold: a task leaves the queue when its owner hears of the loss,
and comes back from a worker that finds no copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nbray.core_worker.own.counting import lost
from nbray.core_worker.own.table import ObjectEntry
from nbray.core_worker.submit.actor_creation import PendingActor
from nbray.core_worker.submit.calls import ActorCall, ActorClient
from nbray.core_worker.tasks import PendingTask
from nbray.core_worker.values.arguments import Inlined
from nbray.wire.records import Dependency, Value

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker


class Dependencies:
    """Fills arguments in. All of it runs under the baton.

    ``unresolved`` of a task counts those that are missing, and one more while they are looked
    through: what turns out meanwhile, the caller hears.
    """

    def __init__(self, core: CoreWorker) -> None:
        self._core = core

    def resolve(self, task: PendingTask) -> bool:
        """True when all arguments of a task are there; otherwise it is queued later."""
        return self._resolve(task, lambda: self._enqueue(task))

    def resolve_call(self, call: ActorCall, client: ActorClient) -> None:
        """Like `resolve`; the client waits for the call."""
        self._resolve(call, lambda: client.resolved(call))

    def resolve_actor(self, actor: PendingActor, when_ready: Callable[[], None]) -> bool:
        """True when all arguments of a constructor are there; else ``when_ready`` is called."""
        return self._resolve(actor, when_ready)

    def resolve_again(self, task: PendingTask) -> None:
        """A task that was queued waits for arguments that are not there any more."""
        for dependency in task.spec.dependencies:
            dependency.value = None
        if self.resolve(task):
            self._enqueue(task)

    def find(self, task: PendingTask, tried: dict[bytes, list[bytes]]) -> None:
        """A worker found no copy of some arguments of a task, which waits for them now."""
        task.unresolved += 1
        for dependency in task.spec.dependencies:
            object_id = dependency.object_id
            if object_id not in tried:
                continue
            task.unresolved += 1

            def fill(value: Value | None, dependency: Dependency = dependency) -> None:
                dependency.value = value or lost(dependency.object_id)
                task.unresolved -= 1
                if not task.unresolved:
                    self._enqueue(task)

            self._core.locations.find(object_id, dependency.owner, tried[object_id], fill)
        task.unresolved -= 1
        if not task.unresolved:
            self._enqueue(task)

    def _resolve(
        self, task: PendingTask | ActorCall | PendingActor, when_resolved: Callable[[], None]
    ) -> bool:
        core = self._core
        references, table = core.references, core.table
        inlined = Inlined(core.config.max_inline_arguments_bytes)
        task.unresolved += 1
        for dependency in task.spec.dependencies:
            entry = table.borrow(dependency.object_id, dependency.owner)
            if entry.value is not None:
                inlined.fill(dependency, entry.value)
                continue
            task.unresolved += 1

            def fill(entry: ObjectEntry = entry, dependency: Dependency = dependency) -> None:
                assert entry.value is not None
                inlined.fill(dependency, entry.value)
                task.unresolved -= 1
                if not task.unresolved:
                    when_resolved()

            entry.when_complete(fill)
            references.fetch(dependency.object_id, entry)
        task.unresolved -= 1
        return not task.unresolved

    def _enqueue(self, task: PendingTask) -> None:
        self._core.submitter.enqueue(task)
        self._core.submitter_dirty = True
