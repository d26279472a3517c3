"""The table of the objects that this process owns or borrows, and their reference counts.

An entry lives as long as anything needs it: ObjectRefs in this process (``local``), pins by
pending tasks, enclosing values and handovers (``pins``), and other processes (``borrowers``).
Registrations of a borrower are counted rather than noted, since the report of a new one and
the removal of an older one may overtake each other on different connections: sums commute.

The table decides and changes only itself; what follows from the end of an object (free its
memory, tell its owner) is done by `counting`. All of it runs under the reactor's baton, except
`add_owned`, `ensure_owned`, `get`, `note` and `release`, which touch one container once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import ClassVar

import msgspec

from nbray.common.giving_back import shrink
from nbray.core_worker.own.batch import Batch
from nbray.core_worker.ports import Waiting
from nbray.wire.records import Address, Stored, Value, ids_in, thinned

_WAITERS_KEPT = 16
_MANY = 50_000


class Loan(msgspec.Struct, eq=False, gc=False):
    """An object of another process.

    Attributes:
        owner: whose it is.
        registered: how many registrations of this borrower the owner knows, or is about to.
        registering: who waits for the owner's answer to one.
        requested: the owner was asked for the value.
    """

    owner: Address
    registered: int = 0
    registering: list[Callable[[], None]] | None = None
    requested: bool = False


class Past(msgspec.Struct, eq=False, gc=False):
    """What is known of an object that was lost, or could be.

    Attributes:
        lineage: how many finished tasks may need it to be run again; see `lineage`.
        was_made: by a task that was kept, so that it could be made again.
        freed: its value was given back; it is made again when somebody needs it.
        kept_for_lineage: its value was kept when only lineage needed it any more.
        stale_nodes: where copies of a value may be that was taken for lost.
    """

    lineage: int = 0
    was_made: bool = False
    freed: bool = False
    kept_for_lineage: bool = False
    stale_nodes: tuple[bytes, ...] = ()


class Ties(msgspec.Struct, eq=False, gc=False):
    """What few objects have.

    Attributes:
        pins: by pending tasks, enclosing values and handovers.
        borrowers: how many registrations each other process has.
        contained: the objects whose refs stand in its value.
        callbacks: what is done when the value is known.
    """

    pins: int = 0
    borrowers: dict[bytes, int] | None = None
    contained: Sequence[bytes] | None = None
    callbacks: list[Callable[[], None]] | None = None
    past: Past | None = None


_MADE = Ties(past=Past(was_made=True))
"""Of what kept tasks have made, if nothing else is to be said of it: one for all."""


class ObjectEntry(msgspec.Struct, eq=False, gc=False):
    """What is known of one object. There may be millions: what few have stands in other records.

    The collector does not know it: an entry leaves the table with its last reference, and what
    waits for its value is called, and forgotten, at the latest when the process ends.

    Attributes:
        waiters: who waits for the value, or a list of them.
        ties: changed by way of `tied` and `history` alone, since many may share them.
        loan: whose it is, if it is not of this process (`BorrowedEntry`).
    """

    local: int = 0
    value: Value | None = None
    waiters: Waiting | list[Waiting] | None = None
    ties: Ties | None = None

    loan: ClassVar[Loan | None] = None

    @property
    def owner(self) -> Address | None:
        """Whose it is; None for an object of this process."""
        return None if self.loan is None else self.loan.owner

    @property
    def borrowers(self) -> dict[bytes, int]:
        """How many registrations each other process has."""
        return self.ties.borrowers or {} if self.ties is not None else {}

    @property
    def past(self) -> Past | None:
        """Its past, to be read."""
        return self.ties.past if self.ties is not None else None

    @property
    def contained(self) -> Sequence[bytes]:
        """The objects whose refs stand in its value."""
        return self.ties.contained or () if self.ties is not None else ()

    def tied(self) -> Ties:
        """Its ties, begun when there are none."""
        ties = self.ties
        if ties is None:
            ties = self.ties = Ties()
        elif ties is _MADE:
            ties = self.ties = Ties(past=Past(was_made=True))
        return ties

    def history(self) -> Past:
        """Its past, begun when there is none."""
        ties = self.tied()
        if ties.past is None:
            ties.past = Past()
        return ties.past

    def can_be_made(self) -> None:
        """The task that made it is kept."""
        if self.ties is None:
            self.ties = _MADE
        elif self.ties is not _MADE:
            self.history().was_made = True

    def is_freed(self) -> bool:
        """Whether its value was given back, so that it is made again when somebody needs it."""
        past = self.past
        return past is not None and past.freed

    def was_made(self) -> bool:
        """Whether a task that was kept has made it."""
        past = self.past
        return past is not None and past.was_made

    def add_waiter(self, waiter: Waiting) -> None:
        """Count one completion for ``waiter`` when the value is known.

        Those that have given up are dropped now and then: a loop that waits with a timeout may
        come by a thousand times before the value does.
        """
        waiters = self.waiters
        if not isinstance(waiters, list):
            if waiters is None or waiters.remaining <= 0:
                self.waiters = waiter
                return
            waiters = self.waiters = [waiters]
        elif len(waiters) >= _WAITERS_KEPT:
            waiters = self.waiters = [one for one in waiters if one.remaining > 0]
        waiters.append(waiter)

    def when_complete(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the value is known, now or later."""
        if self.value is not None:
            callback()
            return
        ties = self.tied()
        if ties.callbacks is None:
            ties.callbacks = [callback]
        else:
            ties.callbacks.append(callback)


class BorrowedEntry(ObjectEntry, eq=False, gc=False, kw_only=True):
    """What is known of an object that came from elsewhere."""

    loan: Loan  # type: ignore[misc]  # there it is the class's, which costs no entry anything


class OwnershipTable:
    """All entries of one process.

    Attributes:
        released: notes of references that came and died, from any thread; `Counting` counts them.
        died: the same of refs that have died, by their ids alone.
        batches: those of whose refs some have come or died.
    """

    def __init__(self) -> None:
        self.released: deque[tuple[bytes, int]] = deque()
        self.died: deque[bytes] = deque()
        self.batches: deque[Batch] = deque()
        self._entries: dict[bytes, ObjectEntry] = {}
        self._borrowed_by: dict[bytes, set[bytes]] = {}
        self._most = 0
        self.get: Callable[[bytes], ObjectEntry | None] = self._entries.get
        """The entry of an object id, if there is one."""

    def __len__(self) -> int:
        return len(self._entries)

    def has_emptied(self) -> bool:
        """Whether most of many entries have gone, so that their room is to be given back.

        Called now and then under the baton: what it sees is the most that there was.
        """
        count = len(self._entries)
        if count >= self._most:
            self._most = count
        elif self._most >= _MANY and count * 8 < self._most:
            return True
        return False

    def shrink(self) -> None:
        """Give the room of entries back that have gone."""
        shrink(self._entries)
        self._most = len(self._entries)

    def note(self, object_ids: Iterable[bytes], change: int) -> None:
        """Count that many references more of each at the next turn; from any thread."""
        if change == -1:
            self.died.extend(object_ids)
        else:
            self.released.extend(zip(object_ids, repeat(change)))

    def release(self, object_id: bytes) -> None:
        """End the object at the next turn, if nothing needs it any more by then."""
        self.released.append((object_id, 0))

    def contains(self, entry: ObjectEntry, value: Value) -> None:
        """The object's value is known, or known again, and these refs stand in it."""
        self.drop_contained(entry)
        if value.contained:
            entry.tied().contained = ids_in(value.contained)

    def has_in_it(self, outer: bytes, object_ids: tuple[bytes, ...]) -> bool:
        """Whether the value of ``outer`` holds these: refs of them stand in it."""
        entry = self._entries.get(outer)
        return entry is not None and entry.ties is not None and entry.ties.contained == object_ids

    def drop_contained(self, entry: ObjectEntry) -> None:
        """What stands in the object's value is not held for it any more."""
        ties = entry.ties
        if ties is not None and ties.contained is not None:
            self.note(ties.contained, -1)
            ties.contained = None

    def add_owned(self, object_id: bytes) -> ObjectEntry:
        """A new object of this process, with one local reference."""
        entry = self._entries[object_id] = ObjectEntry(1)
        return entry

    def ensure_owned(self, object_id: bytes) -> ObjectEntry:
        """The entry of an object of this process, made with one reference if it is new."""
        return self._entries.setdefault(object_id, ObjectEntry(1))

    def __getitem__(self, object_id: bytes) -> ObjectEntry:
        return self._entries[object_id]

    def borrow(self, object_id: bytes, owner: Address) -> ObjectEntry:
        """The entry of a ref that came from elsewhere, made when it is new here."""
        entry = self._entries.get(object_id)
        if entry is None:
            entry = self._entries[object_id] = BorrowedEntry(loan=Loan(owner))
        return entry

    def complete(self, object_id: bytes, value: Value) -> None:
        """The value is known: whoever waits for it goes on. A second value is another copy."""
        entry = self._entries.get(object_id)
        if entry is not None:
            self.complete_entry(entry, value)

    def complete_entry(self, entry: ObjectEntry, value: Value) -> None:
        """Like `complete`, of an entry of this table."""
        if entry.value is not None:
            if value.stored is not None:
                add_copies(entry.value, value.stored.node_ids)
            return
        entry.value = value
        ties = entry.ties
        if ties is not None and ties is not _MADE and ties.past is not None:
            past = ties.past
            past.freed = False
            add_copies(value, past.stale_nodes)
            past.stale_nodes = ()
        waiters = entry.waiters
        if waiters is not None:
            entry.waiters = None
            if value.is_error:
                for waiter in waiters if isinstance(waiters, list) else [waiters]:
                    waiter.failed()
            elif isinstance(waiters, list):
                for waiter in waiters:
                    waiter.complete_one()
            else:
                waiters.complete_one()
        if ties is not None and ties.callbacks is not None:
            callbacks, ties.callbacks = ties.callbacks, None
            for callback in callbacks:
                callback()

    def all(self) -> Iterable[tuple[bytes, ObjectEntry]]:
        """Every entry; other threads may add some meanwhile.

        A copy is made in one step, a list of the items not: that may let finalizers run.
        """
        return self._entries.copy().items()

    def owns_any(self) -> bool:
        """Whether an object of this process is still needed by somebody."""
        return any(entry.loan is None for _, entry in self.all())

    def any_borrowed(self) -> bool:
        """Whether another process holds an object of this one."""
        return any(entry.loan is None and entry.borrowers for _, entry in self.all())

    def in_arenas(self) -> list[tuple[bytes, Value, Stored]]:
        """The values of this process that lie in arenas."""
        return [
            (object_id, entry.value, entry.value.stored)
            for object_id, entry in self.all()
            if entry.loan is None and entry.value is not None and entry.value.stored is not None
        ]

    def add_borrower(self, object_id: bytes, borrower_id: bytes, count: int) -> None:
        """Add ``count`` (negative: remove) registrations of a borrower."""
        entry = self._entries.get(object_id)
        if entry is None:
            return
        ties = entry.tied()
        if ties.borrowers is None:
            ties.borrowers = {}
        borrowers = ties.borrowers
        total = borrowers.get(borrower_id, 0) + count
        held = self._borrowed_by.setdefault(borrower_id, set())
        if total:
            borrowers[borrower_id] = total
            held.add(object_id)
        else:
            borrowers.pop(borrower_id, None)
            held.discard(object_id)

    def requested_from(self, owner_id: bytes) -> list[bytes]:
        """The borrowed objects whose values that owner has still to send."""
        return [
            object_id
            for object_id, entry in self.all()
            if entry.loan is not None
            and entry.loan.requested
            and entry.value is None
            and entry.loan.owner.worker_id == owner_id
        ]

    def unfinished_tasks(self, job_id: bytes) -> list[bytes]:
        """The tasks of a job that have still to make an object of this process, oldest first."""
        found = dict.fromkeys(
            object_id[:24]
            for object_id, entry in self.all()
            if entry.value is None and entry.loan is None and object_id[20:24] == job_id
        )
        return list(found)

    def complete_all(self, value: Value) -> None:
        """Whatever has no value yet gets this one."""
        for object_id, entry in self.all():
            if entry.value is None:
                self.complete(object_id, value)

    def refuse_waits(self, value: Value) -> None:
        """Whoever waits for a value gets this one; what nobody waits for stays as it is."""
        for object_id, entry in self.all():
            if entry.value is None and (
                entry.waiters is not None or (entry.ties is not None and entry.ties.callbacks)
            ):
                self.complete(object_id, value)

    def drop_borrower(self, borrower_id: bytes) -> set[bytes]:
        """A borrower died; returns the objects that it held."""
        held = self._borrowed_by.pop(borrower_id, set())
        for object_id in held:
            entry = self._entries.get(object_id)
            if entry is not None:
                entry.borrowers.pop(borrower_id, None)
        return held

    def unneeded(self, object_id: bytes) -> ObjectEntry | None:
        """The entry if there is one whose value nothing needs any more."""
        entry = self._entries.get(object_id)
        if entry is None or entry.local > 0:
            return None
        ties = entry.ties
        return entry if ties is None or (ties.pins <= 0 and not ties.borrowers) else None

    def remove(self, object_id: bytes) -> None:
        """The object has ended."""
        del self._entries[object_id]


def add_copies(value: Value, node_ids: Iterable[bytes]) -> None:
    """There are copies of the value on these nodes, too: they are freed with it."""
    stored = value.stored
    if stored is not None:
        new = [node_id for node_id in node_ids if node_id not in stored.node_ids]
        if new:
            value.stored = thinned(stored, (*stored.node_ids, *new))


def drop_copy(value: Value, node_id: bytes) -> None:
    """There is no copy of the value on that node any more."""
    stored = value.stored
    if stored is not None and node_id in stored.node_ids:
        value.stored = thinned(stored, tuple([n for n in stored.node_ids if n != node_id]))
