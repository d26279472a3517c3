"""Who holds which object: the references of this process, and the protocol of borrowers.

Refs that come and die, in any thread, leave a note in `released`; the notes are counted under the
baton, in one place, which also ends what nothing needs any more. A ref that came from elsewhere
makes this process a borrower, which its owner has to know before whoever handed it over lets go:

- an argument is held by the submitter until the reply. A worker that keeps one names it in the
  reply if the submitter owns it, and otherwise registers with the owner before it replies;
- a ref inside a returned value is held by the worker until the receiver has registered with
  its owner (`HandoverDone`), or is dead;
- a ref found in a fetched value holds the outer object until the owner answered `AddBorrower`,
  and so does the reply of a task that found it in an argument.

Nobody registers another process: so an owner has a connection to each of its borrowers, and hears
when one dies.

When nothing needs an object any more, `_end` frees what it held, here or at its owner.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterable

from nbray.common.ids import actor_of
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.peers import Peers
from nbray.core_worker.values.serialization import serialize
from nbray.exceptions import ObjectLostError, OwnerDiedError
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.connection import Connection
from nbray.wire.records import Address, ContainedRef, Value

_NO_HANDLES = Cause(CauseKind.NO_HANDLES, "all its handles are gone")


class References:
    """The ownership table of this process and what keeps it true between processes.

    Attributes:
        on_ended: hears of every owned object whose entry has ended.
        on_no_handles: hears that no handle of an actor is left here.
        before_free: sends what must reach the raylet before the end of an object.
        on_missing: is to provide for an owned object whose value was given back.
        may_go: whether the value of an owned object may that only lineage needs.
        sites: where objects were made, when `record_ref_creation_sites` says so.
    """

    def __init__(self, peers: Peers) -> None:
        self.table = OwnershipTable()
        self.released: deque[tuple[bytes, int]] = deque()
        self.sites: dict[bytes, str] = {}
        self._peers = peers
        self.on_ended: Callable[[bytes, ObjectEntry], None]
        self.on_no_handles: Callable[[bytes], None] = lambda actor_id: None
        self.on_missing: Callable[[bytes, ObjectEntry], None]
        self.before_free: Callable[[], None] = lambda: None
        self.may_go: Callable[[bytes, ObjectEntry], bool]
        self._handovers: dict[bytes, list[tuple[Connection, list[bytes]]]] = {}
        self._found: dict[bytes, list[ObjectEntry]] = {}
        self._ending = allocate_lock()
        peers.handlers.update(
            {
                om.RequestValue: self._serve_value,
                om.ValueReady: self._on_value,
                om.AddBorrower: self._on_add_borrower,
                om.BorrowerAdded: lambda _peer, reply: peers.answer(
                    ("borrow", reply.request_id), reply
                ),
                om.RemoveBorrower: self._on_remove_borrower,
                m.HandoverDone: self._on_handover_done,
            }
        )
        peers.on_closed.append(self._on_closed)

    # --- local references --------------------

    def note(self, object_ids: Iterable[bytes], change: int) -> None:
        """Count that many references more of each at the next turn; from any thread."""
        for object_id in object_ids:
            self.released.append((object_id, change))

    def refer(self, object_id: bytes, owner: Address) -> ObjectEntry:
        """Count one more ref of an object that came from elsewhere; from any thread."""
        with self._ending:
            entry = self.table.get(object_id)
            if entry is None:
                entry = self.table.borrow(object_id, owner)
            self.released.append((object_id, 1))
        return entry

    def is_handle(self, object_id: bytes) -> bool:
        """Whether it stands for the handles of an actor."""
        return bool(actor_of(object_id))

    def release(self, object_id: bytes) -> None:
        """End the object at the next turn, if nothing needs it any more by then."""
        self.released.append((object_id, 0))

    def count_soon(self) -> None:
        """Count the refs that have died before whatever is posted after this; from any thread."""
        self._peers.reactor.post(self.count_released)

    def count_released(self) -> None:
        """Count the refs that have come and died since the last turn, and end what nobody needs.

        All notes are counted before anything ends: behind the death of an object's last ref the
        birth of another may wait, of a ref that another thread has just unpickled.
        """
        released, table = self.released, self.table
        doubtful: list[bytes] = []
        while released or doubtful:
            while released:
                object_id, change = released.popleft()
                entry = table.get(object_id)
                if entry is not None:
                    entry.local += change
                    if entry.local <= 0:
                        doubtful.append(object_id)
            if doubtful:
                with self._ending:
                    if released:
                        continue
                    object_id = doubtful.pop()
                    entry = table.unneeded(object_id)
                    if entry is not None and not entry.lineage:
                        table.remove(object_id)
                if entry is not None:
                    self._end(object_id, entry)

    def hold(self, object_id: bytes, change: int) -> None:
        """Add ``change`` pins that are not refs of this process."""
        entry = self.table.get(object_id)
        if entry is not None:
            entry.pins += change
            if change < 0:
                self.release(object_id)

    def hold_handles(self, object_id: bytes, arguments: list[bytes]) -> None:
        """Its actor, and the holds on its ``arguments``, end with the last ref of ``object_id``."""
        self.table.add_owned(object_id).contained = arguments

    def let_go_handles(self, object_id: bytes, arguments: list[bytes]) -> None:
        """There is no such actor, after all: its end is no news. From any thread."""
        with self._ending:
            if self.table.get(object_id) is not None:
                self.table.remove(object_id)
        self.note(arguments, -1)

    def _end(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Nothing needs the object any more; with lineage, only its value ends, if it may."""
        if entry.lineage:
            if entry.value is not None and self.may_go(object_id, entry):
                self.drop_value(object_id, entry)
            return
        actor_id = actor_of(object_id)
        if actor_id:
            self.on_no_handles(actor_id)
        if self.is_borrowed(entry):
            self._drop_contained(entry)
            assert entry.owner is not None
            owner = self._peers.find(entry.owner.worker_id)
            if entry.registered and owner is not None:
                owner.send(om.RemoveBorrower(object_id, self._peers.worker_id, entry.registered))
            return
        if actor_id:
            self._peers.raylet.send(m.KillActor(actor_id, _NO_HANDLES))
        self._give_back(object_id, entry)
        if entry.made_by or entry.kept_for_lineage:
            self.on_ended(object_id, entry)

    def drop_value(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Give the value back and keep the entry."""
        self._give_back(object_id, entry)
        entry.value, entry.freed = None, True

    def contains(self, entry: ObjectEntry, value: Value) -> None:
        """The object's value is known, or known again, and these refs stand in it."""
        self._drop_contained(entry)
        entry.contained = [ref.object_id for ref in value.contained]

    def _give_back(self, object_id: bytes, entry: ObjectEntry) -> None:
        self._drop_contained(entry)
        if entry.value is not None:
            self.free(object_id, entry.value)

    def _drop_contained(self, entry: ObjectEntry) -> None:
        self.note(entry.contained or (), -1)
        entry.contained = None

    def free(self, object_id: bytes, value: Value) -> None:
        """Give back what a value of this process takes in arenas."""
        if value.stored is not None:
            self.before_free()
            self._peers.raylet.send(om.FreeObjects([object_id], value.stored.node_ids))

    def is_borrowed(self, entry: ObjectEntry) -> bool:
        """Whether another process owns the object."""
        return entry.owner is not None and entry.owner.worker_id != self._peers.worker_id

    # --- borrowing: this process borrows --------------------

    def fetch(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Have a value that is not here brought: by the owner, once, or by lineage."""
        if not self.is_borrowed(entry):
            if entry.freed:
                self.on_missing(object_id, entry)
            return
        if entry.requested:
            return
        assert entry.owner is not None
        entry.requested = True
        self._peers.connect(entry.owner).send(om.RequestValue(object_id))

    def _on_value(self, _peer: Connection, message: om.ValueReady) -> None:
        self.table.complete(message.object_id, message.value or owner_died(message.object_id))

    def found_in(self, outer: bytes, object_id: bytes) -> None:
        """A ref was found in the fetched value of ``outer``: hold that until the owner knows."""
        entry = self.table.get(object_id)
        if entry is None or entry.owner is None or entry.registered:
            return
        self.hold(outer, 1)
        found = self._found.setdefault(outer, [])
        found.append(entry)

        def registered() -> None:
            found.remove(entry)
            if not found:
                del self._found[outer]
            self.hold(outer, -1)

        self._register(object_id, entry, registered)

    def adopt(self, object_id: bytes) -> None:
        """A ref came out of band, so nothing holds the object until its owner knows."""
        entry = self.table.get(object_id)
        if entry is not None and self.is_borrowed(entry):
            self._register(object_id, entry, lambda: None)

    def take_over(self, refs: list[ContainedRef], then: Callable[[], None]) -> None:
        """Refs stand in a value of this process: refer to them, ``then`` when owners know."""
        pending = 1

        def registered() -> None:
            nonlocal pending
            pending -= 1
            if not pending:
                then()

        for ref in refs:
            inner = self.table.borrow(ref.object_id, ref.owner)
            inner.local += 1
            if inner.owner is not None:
                pending += 1
                self._register(ref.object_id, inner, registered)
        registered()

    def keep_arguments(
        self, object_ids: set[bytes], submitter: bytes, then: Callable[[list[bytes]], None]
    ) -> None:
        """A task has ended that had these refs as arguments: see to those that are kept.

        ``then`` gets those that ``submitter`` owns, when all other owners know of theirs.
        """
        kept: list[bytes] = []
        pending = 1

        def registered() -> None:
            nonlocal pending
            pending -= 1
            if not pending:
                then(kept)

        for object_id in object_ids:
            for inner in self._found.get(object_id, ()):
                if inner.registering is not None:
                    pending += 1
                    inner.registering.append(registered)
            entry = self.table.get(object_id)
            if entry is None or entry.owner is None:
                continue
            if entry.local <= 0:
                self.release(object_id)
                continue
            if entry.owner.worker_id == submitter and not entry.registered:
                entry.registered = 1
                kept.append(object_id)
            else:
                pending += 1
                self._register(object_id, entry, registered)
        registered()

    def _register(self, object_id: bytes, entry: ObjectEntry, then: Callable[[], None]) -> None:
        """Be a borrower in the eyes of the owner; ``then`` when it knows, or is dead."""
        if entry.registering is not None:
            entry.registering.append(then)
            return
        if entry.registered:
            then()
            return
        assert entry.owner is not None
        entry.registered = 1
        entry.registering = [then]

        def answered(_reply: om.BorrowerAdded | None) -> None:
            waiting, entry.registering = entry.registering, None
            for callback in waiting or ():
                callback()

        request_id = self._peers.next_request()
        self._peers.ask(
            self._peers.connect(entry.owner),
            ("borrow", request_id),
            om.AddBorrower(object_id, self._peers.address, request_id),
            answered,
        )

    # --- borrowing: others borrow --------------------

    def _serve_value(self, connection: Connection, message: om.RequestValue) -> None:
        object_id = message.object_id
        entry = self.table.get(object_id)
        if entry is None:
            connection.send(om.ValueReady(object_id, None))
            return
        entry.when_complete(lambda: connection.send(om.ValueReady(object_id, entry.value)))
        self.fetch(object_id, entry)

    def _on_add_borrower(self, connection: Connection, message: om.AddBorrower) -> None:
        self.table.add_borrower(message.object_id, message.borrower.worker_id, 1)
        connection.send(om.BorrowerAdded(message.request_id))

    def _on_remove_borrower(self, _peer: Connection, message: om.RemoveBorrower) -> None:
        self.table.add_borrower(message.object_id, message.borrower_id, -message.count)
        self.release(message.object_id)

    def kept_by(self, object_id: bytes, worker_id: bytes) -> None:
        """A worker's reply says that it keeps an argument ref, of an object of this process."""
        self.table.add_borrower(object_id, worker_id, 1)

    def hand_over(self, receiver: Connection, key: bytes, object_ids: list[bytes]) -> None:
        """Refs leave in a value; `HandoverDone` for ``key`` takes the holds on them back."""
        if receiver.closed:
            self.note(object_ids, -1)
        else:
            self._handovers.setdefault(key, []).append((receiver, object_ids))

    def _on_handover_done(self, _peer: Connection, message: m.HandoverDone) -> None:
        handovers = self._handovers.get(message.task_id)
        if handovers:
            self.note(handovers.pop(0)[1], -1)
            if not handovers:
                del self._handovers[message.task_id]

    def are_held_elsewhere(self) -> bool:
        """Whether another process has, or is about to have, a ref of an object of this one."""
        return bool(self._handovers) or self.table.any_borrowed()

    def _drop_handovers(self, receiver: Connection) -> None:
        for key, handovers in list(self._handovers.items()):
            for over, object_ids in handovers:
                if over is receiver:
                    self.note(object_ids, -1)
            left = [handover for handover in handovers if handover[0] is not receiver]
            if left:
                self._handovers[key] = left
            else:
                del self._handovers[key]

    def _on_closed(self, connection: Connection) -> None:
        self._drop_handovers(connection)
        peer = connection.state
        if not isinstance(peer, Address) or self._peers.find(peer.worker_id) is not None:
            return
        for object_id in self.table.drop_borrower(peer.worker_id):
            self.release(object_id)
        for object_id in self.table.requested_from(peer.worker_id):
            self.table.complete(object_id, owner_died(object_id))


def lost(object_id: bytes) -> Value:
    """What is left of an object that its owner does not know: the error that says so."""
    error = ObjectLostError(
        f"Failed to retrieve object {object_id.hex()}. All copies of it have been lost: no node "
        "has one, and its owner does not know it."
    )
    return Value(serialize(error).to_bytes(), None, True)


def owner_died(object_id: bytes) -> Value:
    """What is left of an object whose owner is gone: the error that says so."""
    error = OwnerDiedError(
        f"Failed to retrieve object {object_id.hex()}. The object's owner has exited: the process "
        "that made its ref has died, and the object with it."
    )
    return Value(serialize(error).to_bytes(), None, True)
