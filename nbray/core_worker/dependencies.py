"""The ref arguments of tasks and calls: waited for before those are sent to a worker.

A task whose arguments are not all there takes no worker. That holds for lost ones, too, since their
makers may need what the task would hold: a task leaves the queue when its owner hears of the loss,
and comes back from a worker that finds no copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.errors import lost
from nbray.core_worker.own.locations import Locations
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.tasks import PendingTask
from nbray.core_worker.values.arguments import Inlined
from nbray.wire.records import Dependency, Value


class HasArguments(Protocol):
    """A task, a call, or the constructor of an actor.

    ``unresolved`` counts the arguments that are missing, and one more while they are looked
    through: what turns out meanwhile, the caller hears.
    """

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        """Its ref arguments."""

    unresolved: int


class Dependencies:
    """Fills arguments in; ``enqueue`` gets the tasks that waited. Under the baton."""

    def __init__(
        self, table: OwnershipTable, borrowing: Borrowing, locations: Locations,
        max_inline_bytes: int, enqueue: Callable[[PendingTask], None],
    ) -> None:  # fmt: skip
        """``max_inline_bytes``: how many bytes of values a task may take along."""
        self._table = table
        self._borrowing = borrowing
        self._locations = locations
        self._max_inline_bytes = max_inline_bytes
        self._enqueue = enqueue

    def resolve_task(self, task: PendingTask) -> bool:
        """True when all arguments of a task are there; otherwise it is queued later."""
        return self.resolve(task, lambda: self._enqueue(task))

    def resolve_again(self, task: PendingTask) -> None:
        """A task that was queued waits for arguments that are not there any more."""
        for dependency in task.dependencies:
            dependency.value = None
        if self.resolve_task(task):
            self._enqueue(task)

    def is_bereft(self, task: PendingTask) -> bool:
        """Whether a value of this process was lost that the task needs."""
        for dependency in task.dependencies:
            entry = self._table.get(dependency.object_id)
            if entry is not None and entry.loan is None and entry.value is None:
                return True
        return False

    def find(self, task: PendingTask, tried: dict[bytes, list[bytes]]) -> None:
        """A worker found no copy of some arguments of a task, which waits for them now."""
        task.unresolved += 1
        for dependency in task.dependencies:
            object_id = dependency.object_id
            if object_id not in tried:
                continue
            task.unresolved += 1

            def fill(value: Value | None, dependency: Dependency = dependency) -> None:
                dependency.value = value or lost(dependency.object_id)
                task.unresolved -= 1
                if not task.unresolved:
                    self._enqueue(task)

            self._locations.find(object_id, dependency.owner, tried[object_id], fill)
        task.unresolved -= 1
        if not task.unresolved:
            self._enqueue(task)

    def resolve(self, task: HasArguments, when_resolved: Callable[[], None]) -> bool:
        """True when all arguments are there; else ``when_resolved`` is called later."""
        table = self._table
        inlined = Inlined(self._max_inline_bytes)
        task.unresolved += 1
        for dependency in task.dependencies:
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
            self._borrowing.fetch(dependency.object_id, entry)
        task.unresolved -= 1
        return not task.unresolved
