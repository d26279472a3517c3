"""Lineage: how a value that was lost is made again.

An object in an arena may die with its node. Its owner keeps the task that made it, and with it what
the task needs: the *entries* of its arguments. An argument that nobody else refers to and that can
be made again gives its memory back as before, and is made again first when the task is. So an
entry whose ``lineage`` is not zero outlives its value. An argument that cannot be made again keeps
its value as long as a kept task needs it: what `put` made (large arguments are put), and what a
task or a call made that may not be retried. In an arena, it goes to disk as others do.

The rules are Ray's (its documentation of object fault tolerance): tasks that may be retried are
kept, each new run uses up one of their retries; calls of actors only with ``max_task_retries``;
and the oldest tasks are forgotten when all together take more than ``max_lineage_bytes``. The
values that are kept for them alone are bounded too, by ``max_lineage_value_bytes``: the oldest are
given up, never the newest. All of it runs under the baton.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Sequence

import msgspec

from nbray.common.giving_back import shrink
from nbray.common.ids import FIRST
from nbray.core_worker.own.errors import error_value
from nbray.core_worker.own.freeing import Freeing
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.ports import PendingWork, RunsAgain
from nbray.core_worker.tasks import counted
from nbray.exceptions import (
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectReconstructionFailedLineageEvictedError,
    ObjectReconstructionFailedMaxAttemptsExceededError,
)
from nbray.wire.records import Value

logger = logging.getLogger(__name__)

_TASK_BYTES = 1000
_FEW = 64


class _Kept(msgspec.Struct, eq=False, gc=False):
    """A finished task that could be run again.

    Attributes:
        output: its object that still has an entry, or one of them; empty for none.
        others: the rest of them.
        arguments: the owned objects whose ``lineage`` counts this task.
        borrowed: the borrowed ones, which it holds.
        again: it is about to be run again.
    """

    task: PendingWork
    output: bytes = b""
    others: set[bytes] | None = None
    arguments: Sequence[bytes] = ()
    borrowed: Sequence[bytes] = ()
    again: bool = False

    def add(self, object_id: bytes) -> None:
        """It has made that object, perhaps once more."""
        if not self.output:
            self.output = object_id
        elif object_id != self.output:
            self.others = self.others or set()
            self.others.add(object_id)

    def discard(self, object_id: bytes) -> bool:
        """That one has no entry any more; whether it was the last."""
        if object_id == self.output:
            self.output = self.others.pop() if self.others else b""
        elif self.others:
            self.others.discard(object_id)
        return not self.output

    def outputs(self) -> list[bytes]:
        """Its objects that still have an entry."""
        return [self.output, *(self.others or ())] if self.output else []

    @property
    def size(self) -> int:
        return len(self.task.spec.args) + _TASK_BYTES


class Lineage:
    """The tasks whose values this process could make again.

    Attributes:
        value_limit: bytes of the values that are kept for them alone.
    """

    def __init__(
        self, table: OwnershipTable, freeing: Freeing, runs: RunsAgain, max_bytes: int
    ) -> None:
        """``max_bytes``: what the kept tasks may have together."""
        self._table = table
        self._freeing = freeing
        self._runs = runs
        self._max_bytes = max_bytes
        self.value_limit = 0
        self._kept: dict[bytes, _Kept] = {}  # by the first objects
        self._oldest: deque[bytes] = deque()  # of them, and of some that have gone
        self._bytes = 0
        self._values: OrderedDict[bytes, int] = OrderedDict()
        self._value_bytes = 0
        self._again: deque[_Kept] = deque()

    def keep(self, task: PendingWork, object_id: bytes, entry: ObjectEntry) -> None:
        """The task has made an object that lies in an arena."""
        if not task.retries or entry.loan is not None:
            return
        first = task.first
        kept = self._kept.get(first)
        if kept is None:
            kept = self._kept[first] = _Kept(task)
            self._oldest.append(first)
            if len(self._oldest) > 2 * len(self._kept) + _FEW:
                self._drop_gone()
            self._bytes += kept.size
            self._hold_arguments(kept)
        task.rest()
        kept.add(first if object_id == first else object_id)  # so that it is there once
        entry.can_be_made()
        while self._bytes > self._max_bytes:
            oldest = self._oldest.popleft()
            if oldest in self._kept:
                self._forget(oldest)

    def shrink(self) -> None:
        """Give the room of tasks back that are kept no more."""
        shrink(self._kept)
        self._drop_gone()

    def _drop_gone(self) -> None:
        self._oldest = deque(filter(self._kept.__contains__, self._oldest))

    def _hold_arguments(self, kept: _Kept) -> None:
        spec, table = kept.task.spec, self._table
        arguments: list[bytes] = []
        borrowed: list[bytes] = []
        for dependency in spec.dependencies:
            dependency.value = None  # the entries have them
        for argument in counted(spec):
            entry = table.get(argument)
            if entry is None:
                continue
            if entry.loan is None:
                entry.history().lineage += 1
                arguments.append(argument)
            else:
                entry.local += 1
                borrowed.append(argument)
        if arguments:
            kept.arguments = arguments
        if borrowed:
            kept.borrowed = borrowed

    def ended(self, object_id: bytes, entry: ObjectEntry) -> None:
        """An object has no entry any more."""
        self._value_bytes -= self._values.pop(object_id, 0)
        kept = self._maker(object_id, entry)
        if kept is not None and kept.discard(object_id):
            self._forget(kept.task.first)

    def _maker(self, object_id: bytes, entry: ObjectEntry) -> _Kept | None:
        """The task that could make it again."""
        return self._kept.get(object_id[:24] + FIRST) if entry.was_made() else None

    def _forget(self, first: bytes) -> None:
        kept = self._kept.pop(first)
        self._bytes -= kept.size
        table = self._table
        for argument in kept.arguments:
            entry = table.get(argument)
            if entry is not None:
                entry.history().lineage -= 1
                table.release(argument)  # later: a chain of tasks may be long
        table.note(kept.borrowed, -1)

    def outputs(self, task_id: bytes) -> list[bytes]:
        """The objects of a kept task that still have an entry."""
        kept = self._kept.get(task_id + FIRST)
        return [] if kept is None else kept.outputs()

    # --- values that only lineage needs --------------------

    def may_go(self, object_id: bytes, entry: ObjectEntry) -> bool:
        """Whether a value that nothing else needs can be made again; it is kept otherwise."""
        kept = self._maker(object_id, entry)
        value = entry.value
        assert value is not None
        if value.stored is not None and kept is not None and kept.task.retries:
            return True
        if object_id not in self._values and not value.is_error:
            size = value.stored.size if value.stored is not None else len(value.inline or b"")
            self._values[object_id] = size
            self._value_bytes += size
            entry.history().kept_for_lineage = True
        while self._value_bytes > self.value_limit and len(self._values) > 1:
            self._give_up_oldest()
        return False

    def _give_up_oldest(self) -> None:
        object_id, size = self._values.popitem(last=False)
        self._value_bytes -= size
        table = self._table
        entry = table.get(object_id)
        if entry is None or table.unneeded(object_id) is None:
            return  # a task that is run again has it; afterwards it comes back here
        entry.history().was_made = True  # as far as anybody is to know
        if entry.value is not None:
            self._freeing.drop_value(object_id, entry)

    # --- made again --------------------

    def lose(self, entry: ObjectEntry) -> None:
        """Every copy of the value is gone: it is made again when somebody needs it."""
        entry.value, entry.history().freed = None, True

    def recover(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Every copy of the value is gone: make it again, or complete it with the reason."""
        lost, entry.value = entry.value, None
        if lost is not None and lost.stored is not None:
            entry.history().stale_nodes = lost.stored.node_ids
        logger.warning("Object %s is lost; it is made again if possible.", object_id.hex())
        self.recover_freed(object_id, entry)

    def recover_freed(self, object_id: bytes, entry: ObjectEntry) -> None:
        """The value is not there: make it again, or complete it with the reason."""
        if entry.is_freed():
            entry.history().freed = False
        if self._runs.streams_still(object_id[:24]):
            return  # the stream makes it again, or says at its end why not
        kept = self._maker(object_id, entry)
        if kept is not None and (kept.again or self._runs.is_unfinished(kept.task)):
            return
        if kept is None or not kept.task.retries:
            self._table.complete(object_id, _failed(object_id, entry, kept))
            return
        kept.again = True
        self._again.append(kept)
        if len(self._again) > 1:
            return  # whoever runs the first one again comes to this one too: chains may be long
        while self._again:
            try:
                self._run_again(self._again[0])
            finally:
                self._again.popleft().again = False

    def _run_again(self, kept: _Kept) -> None:
        task = kept.task
        task.again()
        for argument in counted(task.spec):
            self._table[argument].local += 1
        for dependency in task.spec.dependencies:
            dependency.value = None
        self._runs.run_again(task)


def _failed(object_id: bytes, entry: ObjectEntry, kept: _Kept | None) -> Value:
    name = (
        f"Failed to retrieve object {object_id.hex()}, all copies of which have been lost. "
        "The object cannot be reconstructed because "
    )
    error: ObjectLostError
    if kept is not None:
        error = ObjectReconstructionFailedMaxAttemptsExceededError(
            f"{name}the maximum number of task retries has been exceeded: "
            f"{kept.task.spec.name} has used up its retries. Raise max_retries."
        )
    elif entry.was_made():
        error = ObjectReconstructionFailedLineageEvictedError(
            f"{name}its lineage has been evicted: the tasks that this process keeps for that took "
            "more than NBRAY_MAX_LINEAGE_BYTES, or their arguments more than "
            "NBRAY_MAX_LINEAGE_VALUE_BYTES, so the oldest were forgotten."
        )
    else:
        error = ObjectReconstructionFailedError(
            f"{name}it was created by nbray.put(), or by a task or an actor's call that may not be "
            "retried (max_retries=0)."
        )
    return error_value(error)
