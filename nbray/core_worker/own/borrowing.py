"""The protocol of borrowers: whoever holds an object of another process is known to its owner.

A ref that came from elsewhere makes this process a borrower, which its owner has to know before
whoever handed it over lets go:

- an argument is held by the submitter until the reply. A worker that keeps one names it in the
  reply if the submitter owns it, and otherwise registers with the owner before it replies;
- a ref inside a returned value is held by the worker until the receiver has registered with
  its owner (`HandoverDone`), or is dead;
- a ref found in a fetched value holds the outer object until the owner answered `AddBorrower`,
  and so does the reply of a task that found it in an argument.

Nobody registers another process: so an owner has a connection to each of its borrowers, and hears
when one dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from nbray.core_worker.identity import Identity
from nbray.core_worker.own.counting import MOST_AT_ONCE, Counting
from nbray.core_worker.own.errors import owner_died
from nbray.core_worker.own.lineage import Lineage
from nbray.core_worker.own.table import Loan, ObjectEntry, OwnershipTable
from nbray.core_worker.ports import Mail
from nbray.wire import object_messages as om
from nbray.wire.records import ContainedRefs, TaskSpec, ids_in


class Borrowing:
    """Both sides of it, for one process. Under the baton."""

    def __init__(
        self, table: OwnershipTable, counting: Counting, mail: Mail, me: Identity, lineage: Lineage
    ) -> None:  # fmt: skip
        self._table = table
        self._counting = counting
        self._mail = mail
        self._me = me
        self._lineage = lineage
        self._handovers: dict[bytes, list[tuple[bytes, Sequence[bytes]]]] = {}
        self._found: dict[bytes, list[list[tuple[bytes, Loan]]]] = {}

    # --- this process borrows --------------------

    def fetch(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Have a value that is not here brought: by the owner, once, or by lineage."""
        loan = entry.loan
        if loan is None or not self._counting.is_borrowed(entry):
            if entry.is_freed():
                self._lineage.recover_freed(object_id, entry)
            return
        if loan.requested:
            return
        loan.requested = True
        self._mail.send(loan.owner, om.RequestValue(object_id))

    def on_value(self, message: om.ValueReady) -> None:
        """The owner sent a value."""
        self._table.complete(message.object_id, message.value or owner_died(message.object_id))

    def found_in(self, outer: bytes, object_ids: Iterable[bytes]) -> None:
        """Refs were found in the fetched value of ``outer``: hold that until the owners know."""
        by_owner: dict[bytes, list[tuple[bytes, Loan]]] = {}
        for object_id in object_ids:
            entry = self._table.get(object_id)
            loan = entry.loan if entry is not None else None
            if loan is not None and not loan.registered:
                loan.registered = 1  # it may stand there twice
                by_owner.setdefault(loan.owner.worker_id, []).append((object_id, loan))
        for some in by_owner.values():
            self._hold_until_known(outer, some)

    def _hold_until_known(self, outer: bytes, loans: list[tuple[bytes, Loan]]) -> None:
        self._counting.hold(outer, 1)
        found = self._found.setdefault(outer, [])
        found.append(loans)

        def registered() -> None:
            found.remove(loans)
            if not found:
                del self._found[outer]
            self._counting.hold(outer, -1)

        self._register(loans, registered)

    def adopt(self, object_id: bytes) -> None:
        """A ref came out of band, so nothing holds the object until its owner knows."""
        entry = self._table.get(object_id)
        if entry is not None and self._counting.is_borrowed(entry):
            assert entry.loan is not None
            self._register_one(object_id, entry.loan, lambda: None)

    def take_over(self, contained: Iterable[ContainedRefs], then: Callable[[], None]) -> None:
        """Refs stand in a value of this process: refer to them, ``then`` when owners know."""
        pending = 1

        def registered() -> None:
            nonlocal pending
            pending -= 1
            if not pending:
                then()

        for refs in contained:
            fresh: list[tuple[bytes, Loan]] = []
            for object_id in refs.object_ids:
                inner = self._table.borrow(object_id, refs.owner)
                inner.local += 1
                loan = inner.loan
                if loan is None:
                    continue
                if loan.registering is not None:
                    pending += 1
                    loan.registering.append(registered)
                elif not loan.registered:
                    loan.registered = 1  # it may stand there twice
                    fresh.append((object_id, loan))
            if fresh:
                pending += 1
                self._register(fresh, registered)
        registered()

    def keep_arguments(
        self, spec: TaskSpec, submitter: bytes, then: Callable[[list[bytes]], None]
    ) -> None:
        """A task has ended here: see to those refs among its arguments that are kept.

        ``then`` gets those that ``submitter`` owns, when all other owners know of theirs.
        """
        kept: list[bytes] = []
        pending = 1

        def registered() -> None:
            nonlocal pending
            pending -= 1
            if not pending:
                then(kept)

        self._counting.count_released()  # the task may have come and gone since this turn began
        object_ids = {d.object_id for d in spec.dependencies}
        object_ids.update(ids_in(spec.contained))
        for object_id in object_ids:
            for loans in self._found.get(object_id, ()):
                for _, found in loans:
                    if found.registering is not None:
                        pending += 1
                        found.registering.append(registered)
            entry = self._table.get(object_id)
            loan = entry.loan if entry is not None else None
            if entry is None or loan is None:
                continue
            if entry.local <= 0:
                self._table.release(object_id)
                continue
            if loan.owner.worker_id == submitter and not loan.registered:
                loan.registered = 1
                kept.append(object_id)
            else:
                pending += 1
                self._register_one(object_id, loan, registered)
        registered()

    def _register_one(self, object_id: bytes, loan: Loan, then: Callable[[], None]) -> None:
        """Be a borrower in the eyes of the owner; ``then`` when it knows, or is dead."""
        if loan.registering is not None:
            loan.registering.append(then)
        elif loan.registered:
            then()
        else:
            self._register([(object_id, loan)], then)

    def _register(self, loans: list[tuple[bytes, Loan]], then: Callable[[], None]) -> None:
        """The same for objects of one owner, of which it has not been told."""
        for _, loan in loans:
            loan.registered = 1
            loan.registering = []
        unanswered = 0

        def answered(some: list[tuple[bytes, Loan]], _reply: om.BorrowerAdded | None) -> None:
            nonlocal unanswered
            unanswered -= 1
            for _, loan in some:
                waiting, loan.registering = loan.registering, None
                for callback in waiting or ():
                    callback()
            if not unanswered:
                then()

        owner = loans[0][1].owner
        parts = [loans[i : i + MOST_AT_ONCE] for i in range(0, len(loans), MOST_AT_ONCE)]
        unanswered = len(parts)
        for part in parts:
            question = om.AddBorrower([object_id for object_id, _ in part], self._me.address, 0)
            self._mail.ask(owner, question, partial(answered, part))

    # --- others borrow --------------------

    def serve_value(self, worker: bytes, message: om.RequestValue) -> None:
        """A borrower wants a value."""
        object_id = message.object_id
        entry = self._table.get(object_id)
        if entry is None:
            self._mail.answer(worker, om.ValueReady(object_id, None))
            return
        entry.when_complete(
            lambda: self._mail.answer(worker, om.ValueReady(object_id, entry.value))
        )
        self.fetch(object_id, entry)

    def on_add_borrower(self, worker: bytes, message: om.AddBorrower) -> None:
        """A process tells the owner of refs that it has them."""
        for object_id in message.object_ids:
            self._table.add_borrower(object_id, message.borrower.worker_id, 1)
        self._mail.answer(worker, om.BorrowerAdded(message.request_id))

    def on_remove_borrower(self, message: om.RemoveBorrower) -> None:
        """A process has none any more."""
        for object_id in message.object_ids:
            self._table.add_borrower(object_id, message.borrower_id, -1)
            self._table.release(object_id)

    def kept_by(self, object_id: bytes, worker_id: bytes) -> None:
        """A worker's reply says that it keeps an argument ref, of an object of this process."""
        self._table.add_borrower(object_id, worker_id, 1)

    def hand_over(self, receiver: bytes, key: bytes, object_ids: Sequence[bytes]) -> None:
        """Refs leave in a value; `HandoverDone` for ``key`` takes the holds on them back."""
        self._handovers.setdefault(key, []).append((receiver, object_ids))

    def on_handover_done(self, key: bytes) -> None:
        """The receiver holds the refs itself."""
        handovers = self._handovers.get(key)
        if handovers:
            self._table.note(handovers.pop(0)[1], -1)
            if not handovers:
                del self._handovers[key]

    def are_held_elsewhere(self) -> bool:
        """Whether another process has, or is about to have, a ref of an object of this one."""
        return bool(self._handovers) or self._table.any_borrowed()

    def process_gone(self, worker_id: bytes) -> None:
        """A process has ended: what it held, what it was about to get, and what it owned."""
        for key, handovers in list(self._handovers.items()):
            for receiver, object_ids in handovers:
                if receiver == worker_id:
                    self._table.note(object_ids, -1)
            left = [handover for handover in handovers if handover[0] != worker_id]
            if left:
                self._handovers[key] = left
            else:
                del self._handovers[key]
        for object_id in self._table.drop_borrower(worker_id):
            self._table.release(object_id)
        for object_id in self._table.requested_from(worker_id):
            self._table.complete(object_id, owner_died(object_id))
