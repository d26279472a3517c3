"""Which objects are still needed here: references that come and die, and the ends that follow.

Refs that come and die, in any thread, leave a note in the table's `released`, `died` or `batches`;
the notes are counted under the baton, in one place, which also ends what nothing needs any more: it
frees what the object held, here or at its owner. How other processes hold objects is `borrowing`.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from itertools import repeat
from typing import Any, Protocol

from nbray.common.ids import actor_of
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.batch import Batch
from nbray.core_worker.own.freeing import Freeing
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.ports import Mail
from nbray.wire import object_messages as om
from nbray.wire.records import Address, ContainedRefs, ids_in

_AT_ONCE = 256
MOST_AT_ONCE = 10_000
"""Of how many objects one message tells."""


class Keeps(Protocol):
    """Lineage, as counting sees it."""

    def may_go(self, object_id: bytes, entry: ObjectEntry) -> bool:
        """Whether a value that only lineage needs can be made again."""

    def ended(self, object_id: bytes, entry: ObjectEntry) -> None:
        """An object has no entry any more."""


class HandlesOfActors(Protocol):
    """Whoever calls actors and ends them."""

    def no_handles(self, actor_id: bytes, is_creator: bool) -> None:
        """No handle of an actor is left here; ``is_creator``: nor anywhere."""


class Counting:
    """Counts references; see the head of this module.

    Attributes:
        sites: where objects were made, when `record_ref_creation_sites` says so.
    """

    def __init__(
        self, me: Identity, table: OwnershipTable, freeing: Freeing, lineage: Keeps,
        actors: HandlesOfActors, mail: Mail, ending: AbstractContextManager[Any],
    ) -> None:  # fmt: skip
        """``ending`` is held while an object ends and while a ref of one is made: a lock."""
        self._me = me
        self._table = table
        self._freeing = freeing
        self._lineage = lineage
        self._actors = actors
        self._mail = mail
        self._ending = ending
        self.sites: dict[bytes, str] = {}
        self._uncounted: dict[Batch, None] = {}
        self._given_up: dict[bytes, list[bytes]] = {}

    def refer(self, object_id: bytes, owner: Address) -> ObjectEntry:
        """Count one more ref of an object that came from elsewhere; from any thread."""
        with self._ending:
            entry = self._table.get(object_id)
            if entry is None:
                entry = self._table.borrow(object_id, owner)
            self._table.released.append((object_id, 1))
        return entry

    def refer_all(
        self, outer: bytes, contained: tuple[ContainedRefs, ...], batch: Batch | None = None
    ) -> list[bytes]:
        """Like `refer`, for the refs that stand in the value of ``outer``: those of a ``batch``.

        Returns:
            The ids of those whose owners are to be told.
        """
        table, unknown = self._table, []
        object_ids = ids_in(contained)
        with self._ending:
            held = table.has_in_it(outer, object_ids)
            if not held:
                for refs in contained:
                    for object_id in refs.object_ids:
                        entry = table.get(object_id) or table.borrow(object_id, refs.owner)
                        loan = entry.loan
                        if loan is not None and not loan.registered:
                            unknown.append(object_id)
            if batch is None:
                table.released.extend(zip(object_ids, repeat(1)))
            else:
                batch.held = held
                table.batches.append(batch)
        return unknown

    def count_all(self) -> None:
        """Count also what need not be counted as long as nothing may end."""
        doubtful: list[bytes] = []
        self._count_late(doubtful)
        for object_id in doubtful:
            self._table.release(object_id)

    def is_handle(self, object_id: bytes) -> bool:
        """Whether it stands for the handles of an actor."""
        return bool(actor_of(object_id))

    def is_borrowed(self, entry: ObjectEntry) -> bool:
        """Whether another process owns the object."""
        return entry.loan is not None and entry.loan.owner.worker_id != self._me.worker_id

    def count_released(self) -> None:
        """Count the refs that have come and died since the last turn, and end what nobody needs.

        All notes are counted before anything ends: behind the death of an object's last ref the
        birth of another may wait, of a ref that another thread has just unpickled.
        """
        table = self._table
        released, died, batches = table.released, table.died, table.batches
        next_note, find = released.popleft, table.get
        doubtful: list[bytes] = []
        while released or died or batches or doubtful:
            while released:
                object_id, change = next_note()
                entry = find(object_id)
                if entry is not None:
                    entry.local += change
                    if entry.local <= 0:
                        doubtful.append(object_id)
            if batches:
                self._count_batch(batches.popleft(), doubtful)
                continue
            if died:
                self._count_dead(died, doubtful)
            if doubtful:
                if self._uncounted:
                    self._count_late(doubtful)
                ended: list[tuple[bytes, ObjectEntry]] = []
                with self._ending:
                    if released or died or batches:
                        continue
                    for object_id in doubtful[-_AT_ONCE:]:
                        entry = table.unneeded(object_id)
                        if entry is not None:
                            ended.append((object_id, entry))
                            past = entry.past if entry.ties is not None else None
                            if past is None or not past.lineage:
                                table.remove(object_id)
                    del doubtful[-_AT_ONCE:]
                for object_id, entry in ended:
                    self._end(object_id, entry)
        if self._given_up:
            self._tell_owners()

    def _tell_owners(self) -> None:
        """What this process borrows no more."""
        given_up, self._given_up = self._given_up, {}
        for owner_id, object_ids in given_up.items():
            for begin in range(0, len(object_ids), MOST_AT_ONCE):
                some = object_ids[begin : begin + MOST_AT_ONCE]
                self._mail.answer(owner_id, om.RemoveBorrower(some, self._me.worker_id))

    def _count_batch(self, batch: Batch, doubtful: list[bytes]) -> None:
        """A batch has news. One whose objects are held otherwise is counted when one may end."""
        batch.nudged = False  # before its deaths are looked at
        if batch.counted:
            self._count_dead(batch.died, doubtful)
        elif not batch.held:
            self._count_births(batch)
            self._count_dead(batch.died, doubtful)
        elif len(batch.died) < len(batch.object_ids):
            self._uncounted[batch] = None
        else:  # all have come and gone
            self._uncounted.pop(batch, None)
            batch.counted, batch.object_ids = True, ()
            batch.died.clear()

    def _count_late(self, doubtful: list[bytes]) -> None:
        uncounted, self._uncounted = self._uncounted, {}
        for batch in uncounted:
            self._count_births(batch)
            self._count_dead(batch.died, doubtful)

    def _count_births(self, batch: Batch) -> None:
        batch.counted = True
        object_ids, batch.object_ids = batch.object_ids, ()
        for entry in map(self._table.get, object_ids):
            if entry is not None:
                entry.local += 1

    def _count_dead(self, died: deque[bytes], doubtful: list[bytes]) -> None:
        next_dead, find = died.popleft, self._table.get
        while died:
            object_id = next_dead()
            entry = find(object_id)
            if entry is not None:
                left = entry.local = entry.local - 1
                if left <= 0:
                    doubtful.append(object_id)

    def hold(self, object_id: bytes, change: int) -> None:
        """Add ``change`` pins that are not refs of this process."""
        entry = self._table.get(object_id)
        if entry is not None:
            entry.tied().pins += change
            if change < 0:
                self._table.release(object_id)

    def hold_handles(self, object_id: bytes, arguments: list[bytes]) -> None:
        """Its actor, and the holds on its ``arguments``, end with the last ref of ``object_id``."""
        self._table.add_owned(object_id).tied().contained = arguments

    def let_go_handles(self, object_id: bytes, arguments: list[bytes]) -> None:
        """There is no such actor, after all: its end is no news. From any thread."""
        with self._ending:
            if self._table.get(object_id) is not None:
                self._table.remove(object_id)
        self._table.note(arguments, -1)

    def _end(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Nothing needs the object any more; with lineage, only its value ends, if it may."""
        past = entry.ties.past if entry.ties is not None else None
        if past is not None and past.lineage:
            if entry.value is not None and self._lineage.may_go(object_id, entry):
                self._freeing.drop_value(object_id, entry)
            return
        is_borrowed = entry.loan is not None and self.is_borrowed(entry)
        actor_id = actor_of(object_id)
        if actor_id:
            self._actors.no_handles(actor_id, not is_borrowed)
        if is_borrowed:
            self._table.drop_contained(entry)
            loan = entry.loan
            assert loan is not None
            if loan.registered:
                given_up = self._given_up.setdefault(loan.owner.worker_id, [])
                given_up += [object_id] * loan.registered
            return
        self._freeing.give_back(object_id, entry)
        if past is not None and (past.was_made or past.kept_for_lineage):
            self._lineage.ended(object_id, entry)
