"""The objects that this process owns or borrows, and what keeps each: for the state API."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING

from nbray.core_worker.own.table import ObjectEntry
from nbray.core_worker.values.arguments import counted
from nbray.wire.connection import Connection
from nbray.wire.object_messages import ObjectsTold, TellObjects
from nbray.wire.records import ObjectRow

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

_MOST_TASKS = 100_000


class HeldObjects:
    """Answers for this process; under the baton."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        core.peers.handlers[TellObjects] = self._on_tell

    def _on_tell(self, raylet: Connection, message: TellObjects) -> None:
        table, references = self._core.table, self._core.references
        captured, used, calls = self._captured(), self._used(), self._calls()
        told = ObjectsTold(message.request_id, [])
        for _object_id, entry in table.all():
            if not references.is_borrowed(entry):
                told.owned += 1
                told.owned_bytes += max(0, _size(entry))
        largest = heapq.nlargest(message.limit, table.all(), key=lambda pair: _size(pair[1]))
        told.rows = [
            self._row(object_id, entry, captured[object_id], used[object_id], calls)
            for object_id, entry in largest
        ]
        raylet.send(told)

    def _row(
        self, object_id: bytes, entry: ObjectEntry, captured: int, used: int, calls: set[bytes]
    ) -> ObjectRow:
        references = self._core.references
        local = max(0, entry.local - captured - used)
        if references.is_handle(object_id):
            kind = "ACTOR_HANDLE"
        elif used:
            kind = "USED_BY_PENDING_TASK"
        elif local:
            kind = "LOCAL_REFERENCE"
        elif captured:
            kind = "CAPTURED_IN_OBJECT"
        else:
            kind = "PINNED_IN_MEMORY"  # for borrowers, or for a handover
        stored = entry.value.stored if entry.value is not None else None
        return ObjectRow(
            object_id, not references.is_borrowed(entry), _size(entry), kind,
            self._status(object_id, entry, calls), references.sites.get(object_id, ""), local,
            len(entry.borrowers or ()), stored.node_ids if stored is not None else [],
            stored.kind if stored is not None else "",
        )  # fmt: skip

    def _status(self, object_id: bytes, entry: ObjectEntry, calls: set[bytes]) -> str:
        """How far the task is that makes the object, as far as this process knows."""
        if self._core.references.is_handle(object_id):
            return "NIL"
        if entry.value is not None:
            return "FAILED" if entry.value.is_error else "FINISHED"
        task = self._core.submitter.find(object_id[:24])
        if task is None:
            return "SUBMITTED_TO_WORKER" if object_id[:24] in calls else "NIL"
        return task.state()

    def _captured(self) -> Counter[bytes]:
        """How often each object's ref stands in a value that is held here."""
        entries = (entry for _object_id, entry in self._core.table.all() if entry.contained)
        return Counter(chain.from_iterable(entry.contained or () for entry in entries))

    def _calls(self) -> set[bytes]:
        """The calls that have not ended."""
        return {call.spec.task_id for call, _sent in self._core.actor_calls.unfinished()}

    def _used(self) -> Counter[bytes]:
        """How often each object is an argument of a task that has not ended."""
        core = self._core
        specs = chain(
            (task.spec for task in core.submitter.unfinished()),
            (call.spec for call, _sent in core.actor_calls.unfinished()),
        )
        return Counter(chain.from_iterable(counted(spec) for spec in islice(specs, _MOST_TASKS)))


def _size(entry: ObjectEntry) -> int:
    """Bytes; -1 while the value is not known."""
    if entry.value is None:
        return -1
    if entry.value.stored is not None:
        return entry.value.stored.size
    return len(entry.value.inline or b"")
