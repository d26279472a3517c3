"""How tasks end: their objects are completed, and their arguments let go."""

from __future__ import annotations

from collections.abc import Sequence

from nbray.common.ids import FIRST, handle_id, return_id
from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.errors import error_value
from nbray.core_worker.own.freeing import Freeing
from nbray.core_worker.own.lineage import Lineage
from nbray.core_worker.own.streams import Share, Streams
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.ports import Mail, PendingWork
from nbray.core_worker.tasks import counted
from nbray.wire import messages as m
from nbray.wire.records import Stored, TaskSpec, Value, ids_in, thinned


class Endings:
    """The ends of the tasks and calls that this process submitted. Under the baton."""

    def __init__(
        self, table: OwnershipTable, freeing: Freeing, borrowing: Borrowing, lineage: Lineage,
        streams: Streams, mail: Mail, share: Share,
    ) -> None:  # fmt: skip
        self._table = table
        self._freeing = freeing
        self._borrowing = borrowing
        self._lineage = lineage
        self._streams = streams
        self._mail = mail
        self._share = share

    def finish(self, task: PendingWork, worker_id: bytes, done: m.TaskDone) -> None:
        """Complete a task's objects and let go of its arguments."""
        table, spec = self._table, task.spec
        for object_id in done.borrowed:
            self._borrowing.kept_by(object_id, worker_id)
        values = done.values
        wanted = spec.num_returns
        if wanted == 1 and len(values) == 1 and self._completed_plainly(spec, values[0]):
            if spec.dependencies or spec.contained:
                table.note(counted(spec), -1)
            elif spec.actor_id:
                table.released.append((handle_id(spec.actor_id), -1))
            return
        if len(values) != (wanted if wanted >= 0 else spec.return_count()):
            values = self._one_for_each(spec, values)
        holders = None
        if any(value.contained for value in (*values, *done.values)):
            holders = self._holders(spec, values)
            if wanted >= 0:  # before anybody can read them
                self._take_over(spec, holders, worker_id)
        for index, value in enumerate(values):
            object_id = return_id(spec.task_id, index)
            entry = table.get(object_id)
            if entry is None:
                self._freeing.free(object_id, value)
                continue
            if value.stored is not None:
                value.stored = thinned(value.stored)
            if entry.past is not None:
                self._complete(object_id, entry, value)
            else:
                table.complete(object_id, value)
            if value.stored is not None:
                self._lineage.keep(task, object_id, entry)
            if entry.local <= 0:
                table.release(object_id)
        if spec.num_returns < 0:
            self._streams.finish(task, done)
            if holders is not None:  # its items are objects of this process only now
                self._take_over(spec, holders, worker_id, done.values[len(values) :])
        if spec.dependencies or spec.contained or spec.actor_id:
            table.note(counted(spec), -1)

    def _holders(self, spec: TaskSpec, values: list[Value]) -> list[tuple[ObjectEntry, Value]]:
        """The objects that are to hold the refs in their values."""
        found = []
        for index, value in enumerate(values):
            entry = self._table.get(return_id(spec.task_id, index)) if value.contained else None
            if entry is not None and entry.value is None:
                found.append((entry, value))
        return found

    def _take_over(
        self, spec: TaskSpec, holders: list[tuple[ObjectEntry, Value]], worker_id: bytes,
        ending: Sequence[Value] = (),
    ) -> None:  # fmt: skip
        """``ending``: an error that is the item of a stream, which refers to its refs by itself."""
        passing = tuple(refs for value in ending for refs in value.contained)
        contained = list(passing)
        for entry, value in holders:
            self._table.contains(entry, value)
            contained += value.contained

        def told() -> None:
            self._table.note(ids_in(passing), -1)
            self._handover_done(spec, worker_id)

        self._borrowing.take_over(contained, told)

    def _completed_plainly(self, spec: TaskSpec, value: Value) -> bool:
        """Complete the only object of a task, if no more is to be done for it, as for most."""
        if value.stored is not None or value.contained:
            return False
        object_id = spec.task_id + FIRST
        entry = self._table.get(object_id)
        if entry is not None:
            if entry.value is not None or (entry.ties is not None and entry.ties.past is not None):
                return False
            self._table.complete_entry(entry, value)
            if entry.local <= 0:
                self._table.release(object_id)
        return True

    def _one_for_each(self, spec: TaskSpec, values: list[Value]) -> list[Value]:
        """A value for each object: an error is the rest's, too, or an item of a stream."""
        count = spec.return_count()
        if not values or len(values) > count:
            return values[:count]
        error = self._share(spec, len(values) - 1, values[-1])
        return values + [error] * (count - len(values))

    def _complete(self, object_id: bytes, entry: ObjectEntry, value: Value) -> None:
        stale = entry.past.stale_nodes if entry.past is not None else None
        if value.stored is None and stale:  # what an earlier attempt has left
            self._freeing.free(object_id, Value(None, Stored(0, stale)))
        self._table.complete(object_id, value)

    def _handover_done(self, spec: TaskSpec, worker_id: bytes) -> None:
        self._mail.answer(worker_id, m.HandoverDone(spec.task_id))

    def forget_attempt(self, spec: TaskSpec, worker_id: bytes, done: m.TaskDone) -> None:
        """A task is run again: nobody will hold the refs that stand in what it raised."""
        for index, value in enumerate(done.values):
            if value.stored is None:
                continue
            object_id = return_id(spec.task_id, index)
            entry = self._table.get(object_id)
            if entry is None:
                self._freeing.free(object_id, value)
            else:
                past = entry.history()
                past.stale_nodes = (*past.stale_nodes, *value.stored.node_ids)
        if any(value.contained for value in done.values):
            self._handover_done(spec, worker_id)

    def fail(self, spec: TaskSpec, error: Exception) -> None:
        """Complete a task's objects with ``error``."""
        value = error_value(error)
        if spec.num_returns < 0:
            self._streams.failed(spec, value)
        for index in range(spec.return_count()):
            object_id = return_id(spec.task_id, index)
            entry = self._table.get(object_id)
            if entry is not None:
                self._complete(object_id, entry, value)
        if spec.dependencies or spec.contained or spec.actor_id:
            self._table.note(counted(spec), -1)
