"""Lineage: how a value that was lost is made again.

An object in an arena may die with its node. Its owner keeps the task that made it, and with it what
the task needs: the *entries* of its arguments, not their values. An argument that nobody else
refers to gives its memory back as before, and is made again first when the task is. So an
entry whose ``lineage`` is not zero outlives its value.

The rules are Ray's (its documentation of object fault tolerance): tasks that may be retried are
kept, each new run uses up one of their retries; calls of actors only with ``max_task_retries``;
what `put` made cannot be made again; and the oldest tasks are forgotten when all together take
more than ``max_lineage_bytes``. All of it runs under the baton.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbray.core_worker.actor_calls import ActorCall
from nbray.core_worker.arguments import counted
from nbray.core_worker.ownership import ObjectEntry
from nbray.core_worker.pending import PendingTask
from nbray.core_worker.serialization import serialize
from nbray.exceptions import (
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectReconstructionFailedLineageEvictedError,
    ObjectReconstructionFailedMaxAttemptsExceededError,
)
from nbray.wire.records import Value

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

logger = logging.getLogger(__name__)

_TASK_BYTES = 1000


@dataclass
class _Kept:
    """A finished task that could be run again.

    Attributes:
        outputs: its objects that still have an entry.
        arguments: the owned objects whose ``lineage`` counts this task.
        borrowed: the borrowed ones, which it holds.
    """

    task: PendingTask | ActorCall
    outputs: set[bytes] = field(default_factory=set)
    arguments: list[bytes] = field(default_factory=list)
    borrowed: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.task.spec.args) + _TASK_BYTES


class Lineage:
    """The tasks whose values this process could make again."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bytes = 0
        core.references.on_ended = self._on_ended
        core.references.on_missing = self.recover_freed

    def keep(self, task: PendingTask | ActorCall, object_id: bytes, entry: ObjectEntry) -> None:
        """The task has made an object that lies in an arena."""
        if not task.retries or entry.owner is not None:
            return
        kept = self._kept.get(task.spec.task_id)
        if kept is None:
            kept = self._kept[task.spec.task_id] = _Kept(task)
            self._bytes += kept.size
            self._hold_arguments(kept)
        kept.outputs.add(object_id)
        entry.made_by = task.spec.task_id
        while self._bytes > self._core.config.max_lineage_bytes:
            self._forget(next(iter(self._kept)))

    def _hold_arguments(self, kept: _Kept) -> None:
        spec, table = kept.task.spec, self._core.table
        for argument in counted(spec):
            entry = table.get(argument)
            if entry is None:
                continue
            if entry.owner is None:
                entry.lineage += 1
                kept.arguments.append(argument)
            else:
                entry.local += 1
                kept.borrowed.append(argument)

    def _on_ended(self, object_id: bytes, entry: ObjectEntry) -> None:
        """An object has no entry any more."""
        kept = self._kept.get(entry.made_by)
        if kept is not None:
            kept.outputs.discard(object_id)
            if not kept.outputs:
                self._forget(entry.made_by)

    def _forget(self, task_id: bytes) -> None:
        kept = self._kept.pop(task_id)
        self._bytes -= kept.size
        core = self._core
        for argument in kept.arguments:
            entry = core.table.get(argument)
            if entry is not None:
                entry.lineage -= 1
                core.released.append((argument, 0))  # later: a chain of tasks may be long
        core.references.note(kept.borrowed, -1)

    # --- made again --------------------

    def recover(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Every copy of the value is gone: make it again, or complete it with the reason."""
        lost, entry.value = entry.value, None
        if lost is not None and lost.stored is not None:
            entry.stale_nodes = lost.stored.node_ids
        logger.warning("Object %s is lost; it is made again if possible.", object_id.hex())
        self.recover_freed(object_id, entry)

    def recover_freed(self, object_id: bytes, entry: ObjectEntry) -> None:
        """The value is not there: make it again, or complete it with the reason."""
        entry.freed = False
        kept = self._kept.get(entry.made_by)
        core = self._core
        if kept is not None and core.is_unfinished(kept.task.spec.task_id):
            return
        if kept is None or not kept.task.retries:
            self._core.table.complete(object_id, _failed(object_id, entry, kept))
            return
        task = kept.task
        task.retries -= task.retries > 0
        task.spec.attempt += 1
        for argument in counted(task.spec):
            core.table[argument].local += 1
        for dependency in task.spec.dependencies:
            dependency.value = None
        core.resubmit(task)


def _failed(object_id: bytes, entry: ObjectEntry, kept: _Kept | None) -> Value:
    name = f"Object {object_id.hex()} is lost, with every copy of its value, and cannot be made "
    error: ObjectLostError
    if kept is not None:
        error = ObjectReconstructionFailedMaxAttemptsExceededError(
            f"{name}again: {kept.task.spec.name} has used up its retries. Raise max_retries."
        )
    elif entry.made_by:
        error = ObjectReconstructionFailedLineageEvictedError(
            f"{name}again: the tasks that this process keeps for that took more than "
            "NBRAY_MAX_LINEAGE_BYTES, so the oldest were forgotten."
        )
    else:
        error = ObjectReconstructionFailedError(
            f"{name}again: nbray.put made it, or a task or an actor's call that may not be retried."
        )
    return Value(serialize(error).to_bytes(), None, True)
