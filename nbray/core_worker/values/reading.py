"""The values of objects: waited for and opened."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from typing import Any, Protocol, TypeVar

from nbray.core_worker.own.batch import Batch
from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.counting import Counting
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.values.ahead import Ahead, Asked, Takes
from nbray.core_worker.values.blocking import Blocking
from nbray.core_worker.values.callbacks import CallbackFuture, HelperThreads
from nbray.core_worker.values.serialization import deserialize
from nbray.core_worker.values.shared_errors import SharedError
from nbray.core_worker.values.stored import StoredValues
from nbray.exceptions import GetTimeoutError, ObjectLostError, TaskError
from nbray.object_ref import Kin, ObjectRef, RefHome, make_ref, make_refs
from nbray.wire.reactor import Reactor
from nbray.wire.records import Address, ContainedRefs, Dependency, Value, ids_in
from nbray.wire.waiting import UntilFailure, Waiter

_Future = TypeVar("_Future", bound=concurrent.futures.Future[Any])


_ANSWER_S = 0.01
_MANY_REFS = 32
_PART = 64


def _is_shared(value: Value) -> bool:
    """Whether it may be an error that another object has."""
    return value.is_error and bool(value.contained)


def _is_failure(entry: ObjectEntry) -> bool:
    """Whether its value is there, and is an error."""
    value = entry.value
    return value is not None and value.is_error


def _not_in_time(entries: Sequence[ObjectEntry], timeout: float | None) -> GetTimeoutError:
    missing = [entry for entry in entries if entry.value is None]
    lost = sum(entry.was_made() for entry in missing)
    again = f" {lost} of them were there, were lost and are to be made again." if lost else ""
    return GetTimeoutError(
        f"Get timed out: some object(s) not ready. {len(missing)} of {len(entries)} were "
        f"missing after {timeout} s.{again}"
    )


def _in_a_coroutine(error: StopIteration) -> RuntimeError:
    """What becomes of StopIteration in a coroutine, as Python has it (PEP 479)."""
    raised = RuntimeError(f"coroutine raised {type(error).__name__}")
    raised.__cause__ = error
    return raised


class Peeks(Protocol):
    """A generator of refs, as `wait` takes it."""

    def peek(self) -> tuple[bytes, ObjectEntry]:
        """The next object before it is taken."""


class Values:
    """Values of this process's refs. Its public methods may be called from any thread."""

    def __init__(
        self, home: RefHome, table: OwnershipTable, counting: Counting, borrowing: Borrowing,
        stored: StoredValues, reactor: Reactor, blocking: Blocking,
    ) -> None:  # fmt: skip
        self._home = home
        self._table = table
        self._counting = counting
        self._borrowing = borrowing
        self._stored = stored
        self._reactor = reactor
        self._blocking = blocking
        self.callbacks = HelperThreads(reactor, "nbray-callbacks")
        self._openers = HelperThreads(reactor, "nbray-opener", most_at_once=8)

    # --- waited for --------------------

    def get(self, refs: Sequence[ObjectRef], timeout: float | None) -> list[Any]:
        """The values of ``refs``; waits at most ``timeout`` seconds in all.

        When one is an error, the others are not waited for.

        Raises:
            GetTimeoutError: not all were there in time.
            TaskError: a task failed; also an instance of the user's exception class.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        object_ids = [ref._id for ref in refs]
        entries = self._entries(refs)
        if not self.wait_for(object_ids, entries, len(entries), timeout, until_failure=True):
            raise _not_in_time(entries, timeout)
        ahead = self._ahead(refs, entries) if len(refs) > 1 else None
        return [
            # Small values are most, and are there, without refs in them.
            deserialize(value.inline, None)
            if (value := entry.value) is not None
            and value.inline is not None
            and not value.is_error
            and not value.contained
            else self._open_next(ref, entry, deadline, ahead, refs, entries)
            for ref, entry in zip(refs, entries, strict=True)
        ]

    def _open_next(
        self, ref: ObjectRef, entry: ObjectEntry, deadline: float | None, ahead: Ahead | None,
        refs: Sequence[ObjectRef], entries: Sequence[ObjectEntry],
    ) -> Any:  # fmt: skip
        """Open one of several; if it is not there, since another has failed, raise that."""
        if entry.value is None:
            for other, failed in zip(refs, entries, strict=True):
                if _is_failure(failed):
                    self._open(other, failed, deadline)  # which raises it
        return self._open(ref, entry, deadline, ahead)

    def get_one(self, ref: ObjectRef, timeout: float | None) -> Any:
        """The value of one ref; like `get`, with less on the way of a call that is waited for."""
        entry = self._table.get(ref._id)
        if entry is None or self._reactor.stopped:
            entry = self._entry(ref)
        deadline = None
        if entry.value is None:
            if timeout is not None:
                deadline = time.monotonic() + timeout
                if not self.wait_for([ref._id], [entry], 1, timeout):
                    raise _not_in_time([entry], timeout)
            elif entry.loan is None and self._blocking.before is None:
                waiter = Waiter()
                self._reactor.inbox.append(partial(self._enlist, ref._id, entry, waiter))
                try:
                    self._reactor.wait(waiter)
                finally:
                    waiter.remaining = 0
            else:
                self.wait_for([ref._id], [entry], 1, None)
        value = entry.value
        if (
            value is not None
            and value.inline is not None
            and not value.is_error
            and not value.contained
        ):
            return deserialize(value.inline, None)
        if timeout is not None and deadline is None:
            deadline = time.monotonic() + timeout
        return self._open(ref, entry, deadline)

    def _entries(self, refs: Sequence[ObjectRef]) -> list[ObjectEntry]:
        if self._reactor.stopped:
            return [self._entry(ref) for ref in refs]
        entry_of = self._table.get
        return [entry_of(ref._id) or self._entry(ref) for ref in refs]

    def _ahead(self, refs: Sequence[ObjectRef], entries: list[ObjectEntry]) -> Ahead | None:
        large = [
            Asked(ref._id, ref._kin.owner, value.stored)
            for ref, entry in zip(refs, entries, strict=True)
            if (value := entry.value) is not None and value.stored is not None
        ]
        return self._stored.ahead(large) if len(large) > 1 else None

    def wait(
        self,
        refs: Sequence[ObjectRef | Peeks],
        num_returns: int,
        timeout: float | None,
    ) -> tuple[list[Any], list[Any]]:
        """Split ``refs`` into at most ``num_returns`` that are ready and the rest.

        A generator is ready when its next item is, or when it has ended.
        """
        object_ids: list[bytes] = []
        entries: list[ObjectEntry] = []
        ready: list[int] = []
        for begin in range(0, len(refs), _PART):  # most loops find one among the first
            some_ids, some = self._look(refs[begin : begin + _PART])
            ready += [index for index, entry in enumerate(some, begin) if entry.value is not None]
            if len(ready) >= num_returns:
                break
            object_ids += some_ids
            entries += some
        else:
            if self._reactor.stopped:
                self._entries([ref for ref in refs if isinstance(ref, ObjectRef)])  # says so
            self.wait_for(object_ids, entries, num_returns, timeout)
            if set(map(type, refs)) != {ObjectRef}:  # what a stream has next may be another now
                _, entries = self._look(refs)
            ready = [index for index, entry in enumerate(entries) if entry.value is not None]
        del ready[num_returns:]
        rest: list[Any] = []
        begin = 0
        for index in ready:
            rest += refs[begin:index]
            begin = index + 1
        rest += refs[begin:]
        return [refs[index] for index in ready], rest

    def _look(self, refs: Sequence[ObjectRef | Peeks]) -> tuple[list[bytes], list[ObjectEntry]]:
        """The objects of ``refs`` and their entries.

        A loop that waits for one of many refs at a time passes here for every ref of each round. So
        nothing is made for a ref that the collector would look at.
        """
        entry_of = self._table.get
        if set(map(type, refs)) == {ObjectRef}:
            object_ids = [ref._id for ref in refs]  # type: ignore[union-attr]
            entries = list(map(entry_of, object_ids))
            if all(entries):
                return object_ids, entries  # type: ignore[return-value]
        pairs = [
            (ref._id, entry_of(ref._id) or self._entry(ref))
            if isinstance(ref, ObjectRef)
            else ref.peek()
            for ref in refs
        ]
        return [object_id for object_id, _ in pairs], [entry for _, entry in pairs]

    def borrowed_ref(self, object_id: bytes, owner: Address) -> ObjectRef:
        """A ref that came from elsewhere, counted here; its owner is still to be told."""
        self._counting.refer(object_id, owner)
        return make_ref(object_id, self._home.kin.of(owner))

    def borrowed_refs(self, contained: tuple[ContainedRefs, ...]) -> list[ObjectRef]:
        """The refs that stand in something that its sender holds, like `borrowed_ref`."""
        return self._refs(b"", contained)[0]

    def arguments_ahead(self, dependencies: Sequence[Dependency]) -> Ahead | None:
        """For several arguments: asks for the large ones before they are opened."""
        large = [
            Asked(dependency.object_id, dependency.owner, value.stored)
            for dependency in dependencies
            if (value := dependency.value) is not None and value.stored is not None
        ]
        return self._stored.ahead(large) if len(large) > 1 else None

    def argument(
        self, object_id: bytes, owner: Address, sent: Value | None, may_wait: bool,
        ahead: Takes | None,
    ) -> Any:  # fmt: skip
        """The value of a ref argument, whose owner is asked if it was not ``sent``."""
        if (
            sent is not None
            and sent.inline is not None
            and not sent.is_error
            and not sent.contained
        ):
            return deserialize(sent.inline, None)  # nothing of it is counted here
        self._table.borrow(object_id, owner)
        if sent is None:
            sent = self._ask_owner(object_id, owner)
        return self.open(object_id, owner, sent, None, may_wait, ahead)

    def when_known(self, object_id: bytes, owner: Address, waiter: Waiter) -> ObjectEntry:
        """Like `argument`, for who does not wait in a thread: the entry of an object, whose value
        is there when ``waiter`` is complete. It is counted once more, until `let_go`.
        """
        entry = self._counting.refer(object_id, owner)
        self._reactor.post(partial(self._enlist, object_id, entry, waiter))
        return entry

    def let_go(self, object_id: bytes) -> None:
        """Whoever asked by `when_known` needs the object no more."""
        self._table.note([object_id], -1)

    def _ask_owner(self, object_id: bytes, owner: Address) -> Value:
        entry = self._counting.refer(object_id, owner)
        try:
            self.wait_for([object_id], [entry], 1, None)
            assert entry.value is not None
            return entry.value
        finally:
            self._table.note([object_id], -1)

    def _entry(self, ref: ObjectRef) -> ObjectEntry:
        entry = self._table.get(ref._id)
        if entry is None or self._reactor.stopped:
            ref._check()
            raise ObjectLostError(f"{ref!r} is not known in this process any more.")
        return entry

    def wait_for(
        self, object_ids: Sequence[bytes], entries: Sequence[ObjectEntry], count: int,
        timeout: float | None, until_failure: bool = False,
    ) -> bool:  # fmt: skip
        """Wait until ``count`` of these objects have values; False after ``timeout`` seconds.

        ``until_failure``: or until one of them is an error.
        """
        missing = [entry.value is None for entry in entries]
        needed = count - missing.count(False)
        if needed <= 0:
            return True
        if until_failure and needed < count and any(map(_is_failure, entries)):
            return True
        waiter = UntilFailure(needed) if until_failure else Waiter(needed)

        def enlist() -> None:
            for object_id, entry in zip(
                compress(object_ids, missing), compress(entries, missing), strict=True
            ):
                if entry.value is None and entry.loan is None and entry.ties is None:
                    if entry.waiters is None:  # as of most
                        entry.waiters = waiter
                    else:
                        entry.add_waiter(waiter)
                else:
                    self._enlist(object_id, entry, waiter)

        self._reactor.inbox.append(enlist)
        if timeout is not None and timeout <= 0:
            self._reactor.try_turn()
            done = waiter.remaining <= 0
        else:
            patience = 0.0
            if self._blocking.before is not None and all(
                self._counting.is_borrowed(entry) for entry in compress(entries, missing)
            ):
                patience = _ANSWER_S  # what others own may be there already: they are asked first
            done = self._blocking.wait(waiter, timeout, patience)
        waiter.remaining = 0  # nobody waits any more: entries that are not complete drop it
        return done

    def _enlist(self, object_id: bytes, entry: ObjectEntry, waiter: Waiter) -> None:
        """Complete ``waiter`` by one when the object has a value; under the baton."""
        if entry.value is None and (entry.loan is not None or entry.ties is not None):
            self._borrowing.fetch(object_id, entry)
        if entry.value is not None:
            if entry.value.is_error:
                waiter.failed()
            else:
                waiter.complete_one()
        elif entry.waiters is None:
            entry.waiters = waiter
        else:
            entry.add_waiter(waiter)

    def future(self, ref: ObjectRef) -> concurrent.futures.Future[Any]:
        """A future whose callbacks may use the cluster."""
        return self.settle(ref, CallbackFuture(self.callbacks))

    def settle(self, ref: ObjectRef, future: _Future) -> _Future:
        """Have ``future`` set by whoever drives the sockets, whom its callbacks must not use.

        A plain one is awaited, where StopIteration would be the end and a value of None.
        """
        entry = self._entry(ref)

        def settle() -> None:
            value = entry.value
            if value is not None and (value.stored is not None or _is_shared(value)):
                # Mapping may wait for a transfer, which this thread itself would have to drive.
                self._openers.run(open_it)
            else:
                open_it()

        def open_it() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(self._open(ref, entry, None))
            except BaseException as error:
                if isinstance(error, StopIteration) and type(future) is concurrent.futures.Future:
                    error = _in_a_coroutine(error)
                future.set_exception(error)

        def enlist() -> None:
            self._borrowing.fetch(ref._id, entry)
            entry.when_complete(settle)

        self._reactor.post(enlist)
        return future

    # --- opened --------------------

    def _open(
        self, ref: ObjectRef, entry: ObjectEntry, deadline: float | None, ahead: Ahead | None = None
    ) -> Any:
        while (value := entry.value) is None:  # it was lost meanwhile, and is made again
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.wait_for([ref._id], [entry], 1, left):
                raise GetTimeoutError(f"Get timed out while {ref!r} was made again.")
        return self.open(ref._id, ref._kin.owner, value, deadline, True, ahead)

    def open(
        self, object_id: bytes, owner: Address, value: Value, deadline: float | None = None,
        ask_owner: bool = True, ahead: Takes | None = None,
    ) -> Any:  # fmt: skip
        """Unpickle a complete value, or raise what it says; see `StoredValues.map`."""
        data: bytes | memoryview | Value | None = value
        while isinstance(data, Value):
            value = data
            if value.stored is not None:
                asked = None if ahead is None else ahead.take(object_id, value.stored)
                data = self._stored.map(object_id, owner, value.stored, deadline, ask_owner, asked)
            else:
                data = value.inline
        assert data is not None
        if value.contained:
            result = self._with_refs(object_id, data, value.contained)
        else:
            result = deserialize(data, self._rebuilder(object_id))
        if value.is_error:
            if isinstance(result, SharedError):
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                self.get([result.ref], left)  # which raises it
            raise result.as_instanceof_cause() if isinstance(result, TaskError) else result
        return result

    def _refs(
        self, outer: bytes, contained: tuple[ContainedRefs, ...]
    ) -> tuple[list[ObjectRef], list[bytes]]:
        """The refs that stand in the value of ``outer``, all counted at once.

        Returns:
            The refs, and the ids of those whose owners are to be told.
        """
        home, refs = self._home, list[ObjectRef]()
        object_ids = ids_in(contained)
        if len(object_ids) < _MANY_REFS:
            unknown = self._counting.refer_all(outer, contained)
            for some in contained:
                refs += make_refs(some.object_ids, home.kin.of(some.owner))
            return refs, unknown
        batch = Batch(object_ids, self._table.batches, self._reactor)
        for some in contained:
            refs += make_refs(some.object_ids, Kin(home, some.owner, batch.died, batch))
        return refs, self._counting.refer_all(outer, contained, batch)

    def _with_refs(
        self, outer: bytes, data: bytes | memoryview, contained: tuple[ContainedRefs, ...]
    ) -> Any:
        """Unpickle a value in which refs stand."""
        refs, unknown = self._refs(outer, contained)
        if unknown:
            self._reactor.post(lambda: self._borrowing.found_in(outer, unknown))
        return deserialize(data, self._rebuilder(outer), refs)

    def _rebuilder(self, outer: bytes) -> Callable[[bytes, Address], ObjectRef]:
        """Makes the refs that are found in ``outer``, which is held until their owner knows us."""
        refer, home = self._counting.refer, self._home

        def rebuild(object_id: bytes, owner: Address) -> ObjectRef:
            entry = refer(object_id, owner)
            if entry.loan is not None and not entry.loan.registered:
                self._reactor.post(lambda: self._borrowing.found_in(outer, [object_id]))
            return make_ref(object_id, home.kin.of(owner))

        return rebuild
