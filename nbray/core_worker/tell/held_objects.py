"""The objects that this process owns or borrows, and what keeps each: for the state API."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from itertools import chain, islice
from typing import Protocol

from nbray.core_worker.own.counting import Counting
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.ports import PendingWork
from nbray.core_worker.tasks import counted
from nbray.wire.object_messages import ObjectsTold, TellObjects
from nbray.wire.records import ObjectRow

_MOST_TASKS = 100_000


class Submitted(Protocol):
    """What this process has submitted."""

    def unfinished_work(self) -> Iterable[PendingWork]:
        """The tasks and calls that have no reply yet."""


class HeldObjects:
    """Answers for this process; under the baton."""

    def __init__(self, table: OwnershipTable, counting: Counting, submitted: Submitted) -> None:
        self._table = table
        self._counting = counting
        self._submitted = submitted

    def told(self, message: TellObjects) -> ObjectsTold:
        """The answer to a raylet that asks."""
        table, counting = self._table, self._counting
        counting.count_all()
        captured, used, states = self._captured(), self._used(), self._states()
        told = ObjectsTold(message.request_id, [])
        for _object_id, entry in table.all():
            if not counting.is_borrowed(entry):
                told.owned += 1
                told.owned_bytes += max(0, _size(entry))
        largest = heapq.nlargest(message.limit, table.all(), key=lambda pair: _size(pair[1]))
        told.rows = [
            self._row(object_id, entry, captured[object_id], used[object_id], states)
            for object_id, entry in largest
        ]
        return told

    def _row(
        self,
        object_id: bytes,
        entry: ObjectEntry,
        captured: int,
        used: int,
        states: dict[bytes, str],
    ) -> ObjectRow:
        counting = self._counting
        local = max(0, entry.local - captured - used)
        if counting.is_handle(object_id):
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
            object_id, not counting.is_borrowed(entry), _size(entry), kind,
            self._status(object_id, entry, states), counting.sites.get(object_id, ""), local,
            len(entry.borrowers), list(stored.node_ids) if stored is not None else [],
            stored.kind if stored is not None else "",
        )  # fmt: skip

    def _status(self, object_id: bytes, entry: ObjectEntry, states: dict[bytes, str]) -> str:
        """How far the task is that makes the object, as far as this process knows."""
        if self._counting.is_handle(object_id):
            return "NIL"
        if entry.value is not None:
            return "FAILED" if entry.value.is_error else "FINISHED"
        return states.get(object_id[:24], "NIL")

    def _captured(self) -> Counter[bytes]:
        """How often each object's ref stands in a value that is held here."""
        entries = (entry for _object_id, entry in self._table.all() if entry.contained)
        return Counter(chain.from_iterable(entry.contained for entry in entries))

    def _states(self) -> dict[bytes, str]:
        """How far what has not ended is, by task id."""
        return {w.spec.task_id: w.shown_state() for w in self._submitted.unfinished_work()}

    def _used(self) -> Counter[bytes]:
        """How often each object is an argument of a task that has not ended."""
        specs = (work.spec for work in self._submitted.unfinished_work())
        return Counter(chain.from_iterable(counted(spec) for spec in islice(specs, _MOST_TASKS)))


def _size(entry: ObjectEntry) -> int:
    """Bytes; -1 while the value is not known."""
    if entry.value is None:
        return -1
    if entry.value.stored is not None:
        return entry.value.stored.size
    return len(entry.value.inline or b"")
