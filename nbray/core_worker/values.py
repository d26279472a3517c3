"""The values of objects: made, stored, waited for and opened."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nbray.core_worker.call_site import where_made
from nbray.core_worker.ownership import ObjectEntry
from nbray.core_worker.serialization import Serialized, deserialize
from nbray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    TaskError,
)
from nbray.object_ref import ObjectRef
from nbray.object_store.arena import Arena, map_file
from nbray.object_store.client import Room
from nbray.wire import messages as m
from nbray.wire.reactor import Connection, Waiter

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker
    from nbray.core_worker.streams import ObjectRefGenerator


_CREATE_TIMEOUT_S = 600.0
_STORE_ERRORS = {"full": ObjectStoreFullError, "disk": OutOfDiskError, "lost": ObjectLostError}


class Values:
    """Values of this process's refs. Its public methods may be called from any thread."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._arena: Arena | None = None
        self._pinned: dict[bytes, list[Callable[[m.ObjectPinned], None]]] = {}
        self._unpins: deque[bytes] = deque()
        peers = core.peers
        self._room = Room(
            core.config,
            self._send_soon,
            core.reactor.call_later,
        )
        peers.handlers[m.ObjectCreated] = lambda _peer, reply: peers.answer(
            ("create", reply.object_id), reply
        )
        peers.handlers[m.ObjectPinned] = self._on_pinned
        peers.handlers[m.RoomLent] = lambda _peer, message: self._room.lent(message)
        peers.handlers[m.ReclaimRoom] = lambda _peer, _message: self._room.reclaim()

    def attach(self, path: str, size: int) -> None:
        """Map the arena of this node."""
        self._arena = Arena.attach(path, size)

    # --- made --------------------

    def store(self, object_id: bytes, packed: Serialized, owner_id: bytes) -> m.Value:
        """The value inline when it is small, else written into the arena.

        Raises:
            ObjectStoreFullError: there was no room in time.
            OutOfDiskError: nor was there room on the disk for what lies in the arena.
        """
        core = self._core
        if packed.size <= core.config.max_inline_bytes:
            return m.Value(packed.to_bytes(), None, False, packed.contained)
        assert self._arena is not None
        size = packed.size
        label = where_made()
        # Only the owner announces by itself: then its free cannot overtake its announcement.
        offset = self._room.cut(size) if owner_id == core.worker_id else None
        complete: m.Message
        if offset is not None:
            complete = m.ObjectWritten(object_id, offset, size, owner_id, label)
        else:
            created: m.ObjectCreated = core.peers.request(
                ("create", object_id), m.CreateObject(object_id, size, owner_id, label),
                _CREATE_TIMEOUT_S,
            )  # fmt: skip
            if created.error:
                raise _STORE_ERRORS[created.kind](created.error)
            offset = created.offset
            complete = m.SealObject(object_id)
        packed.write_into(self._arena.view(offset, size))
        self._send_soon(complete)
        stored = m.Stored(size, [core.address.node_id])
        return m.Value(None, stored, False, packed.contained)

    def _send_soon(self, message: m.Message) -> None:
        """To the raylet, before anything that this process sends later; from any thread."""
        reactor, raylet = self._core.reactor, self._core.peers.raylet
        reactor.inbox.append(lambda: raylet.send(message))
        reactor.nudge()

    # --- waited for --------------------

    def get(self, refs: Sequence[ObjectRef], timeout: float | None) -> list[Any]:
        """The values of ``refs``; waits at most ``timeout`` seconds in all.

        Raises:
            GetTimeoutError: not all were there in time.
            TaskError: a task failed; also an instance of the user's exception class.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        entries = [(ref._id, self._entry(ref)) for ref in refs]
        if not self.wait_for(entries, len(entries), timeout):
            raise GetTimeoutError(
                f"Get timed out: {sum(e.value is None for _, e in entries)} of {len(refs)} objects "
                f"were not ready within {timeout} s."
            )
        return [
            self._open(ref, entry, deadline) for ref, (_, entry) in zip(refs, entries, strict=True)
        ]

    def wait(
        self,
        refs: Sequence[ObjectRef | ObjectRefGenerator],
        num_returns: int,
        timeout: float | None,
    ) -> tuple[list[Any], list[Any]]:
        """Split ``refs`` into at most ``num_returns`` that are ready and the rest.

        A generator is ready when its next item is, or when it has ended.
        """
        entries = [
            (ref._id, self._entry(ref)) if isinstance(ref, ObjectRef) else ref.peek()
            for ref in refs
        ]
        self.wait_for(entries, num_returns, timeout)
        ready: list[Any] = []
        rest: list[Any] = []
        for ref, (_, entry) in zip(refs, entries, strict=True):
            done = entry.value is not None and len(ready) < num_returns
            (ready if done else rest).append(ref)
        return ready, rest

    def complete(self, ref: ObjectRef) -> m.Value:
        """The value of ``ref`` as it travels, once it is there."""
        entry = self._entry(ref)
        self.wait_for([(ref._id, entry)], 1, None)
        assert entry.value is not None
        return entry.value

    def _entry(self, ref: ObjectRef) -> ObjectEntry:
        entry = self._core.table.get(ref._id)
        if entry is None:
            raise ObjectLostError(f"{ref!r} is not known in this process any more.")
        return entry

    def wait_for(
        self, entries: Sequence[tuple[bytes, ObjectEntry]], count: int, timeout: float | None
    ) -> bool:
        """Wait until ``count`` of the entries have values; False after ``timeout`` seconds."""
        core = self._core
        missing = [pair for pair in entries if pair[1].value is None]
        needed = count - (len(entries) - len(missing))
        if needed <= 0:
            return True
        waiter = Waiter(needed)

        def enlist() -> None:
            for object_id, entry in missing:
                if entry.value is None:
                    core.references.fetch(object_id, entry)
                if entry.value is not None:
                    waiter.complete_one()
                elif entry.waiters is None:
                    entry.waiters = [waiter]
                else:
                    entry.waiters.append(waiter)

        core.reactor.inbox.append(enlist)
        if timeout is not None and timeout <= 0:
            core.reactor.try_turn()
            return waiter.remaining <= 0
        return self.block_on(waiter, timeout)

    def block_on(self, waiter: Waiter, timeout: float | None) -> bool:
        """Wait in the middle of a task, whose CPUs others may use meanwhile."""
        core = self._core
        resume = core.before_blocking() if core.before_blocking is not None else None
        try:
            return core.reactor.wait(waiter, timeout)
        finally:
            if resume is not None:
                resume()

    def future(self, ref: ObjectRef) -> concurrent.futures.Future[Any]:
        """A future that is set by whoever drives the sockets."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        entry = self._entry(ref)

        def settle() -> None:
            if entry.value is not None and entry.value.stored is not None:
                # Mapping may wait for a transfer, which this thread itself would have to drive.
                threading.Thread(target=open_it, daemon=True).start()
            else:
                open_it()

        def open_it() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(self._open(ref, entry, None))
            except BaseException as error:
                future.set_exception(error)

        def enlist() -> None:
            self._core.references.fetch(ref._id, entry)
            entry.when_complete(settle)

        self._core.reactor.post(enlist)
        return future

    # --- opened --------------------

    def _open(self, ref: ObjectRef, entry: ObjectEntry, deadline: float | None) -> Any:
        assert entry.value is not None
        return self.open(ref._id, ref._owner, entry.value, deadline)

    def open(
        self, object_id: bytes, owner: m.Address, value: m.Value, deadline: float | None = None
    ) -> Any:
        """Unpickle a complete value, or raise what it says."""
        data: bytes | memoryview
        if value.stored is not None:
            data = self._map(object_id, owner, value.stored, deadline)
        else:
            assert value.inline is not None
            data = value.inline
        result = deserialize(data, lambda *ref: self._rebuild(object_id, *ref))
        if value.is_error:
            raise result.as_instanceof_cause() if isinstance(result, TaskError) else result
        return result

    def _rebuild(self, outer: bytes, object_id: bytes, owner: m.Address) -> ObjectRef:
        """The ref that was found in ``outer``, which is held until the owner knows us."""
        core = self._core
        entry = core.table.borrow(object_id, owner)
        core.released.append((object_id, 1))
        if entry.owner is not None and not entry.registered:
            core.reactor.post(lambda: core.references.found_in(outer, object_id))
        return ObjectRef(object_id, owner, core)

    def _map(
        self, object_id: bytes, owner: m.Address, stored: m.Stored, deadline: float | None
    ) -> memoryview:
        reactor, raylet = self._core.reactor, self._core.peers.raylet
        waiter = Waiter()
        answers: list[m.ObjectPinned] = []
        abandoned = False

        def on_pinned(reply: m.ObjectPinned) -> None:
            answers.append(reply)
            waiter.complete_one()
            if abandoned:
                abandon()

        def abandon() -> None:
            nonlocal abandoned
            abandoned = True
            if answers and not answers[0].error:
                self._unpins.append(object_id)

        def ask() -> None:
            self._pinned.setdefault(object_id, []).append(on_pinned)
            raylet.send(m.GetObject(object_id, stored, owner))

        reactor.post(ask)
        left = None if deadline is None else max(0.001, deadline - time.monotonic())
        try:
            if not reactor.wait(waiter, left):
                raise GetTimeoutError(f"Get timed out while object {object_id.hex()} was fetched.")
        except BaseException:
            reactor.post(abandon)
            raise
        reply = answers[0]
        if reply.error:
            raise _STORE_ERRORS[reply.kind](reply.error)
        if reply.path:
            try:
                return map_file(reply.path, reply.offset, reply.size)
            finally:
                self._unpin(object_id)  # the mapping keeps what it shows
        assert self._arena is not None
        return self._arena.pinned_view(reply.offset, reply.size, lambda: self._unpin(object_id))

    def _unpin(self, object_id: bytes) -> None:
        self._unpins.append(object_id)
        self._core.reactor.nudge()

    def _on_pinned(self, _peer: Connection, reply: m.ObjectPinned) -> None:
        waiting = self._pinned.get(reply.object_id)
        if waiting:
            waiting.pop(0)(reply)
            if not waiting:
                del self._pinned[reply.object_id]

    def send_unpins(self) -> None:
        """Tell the raylet which mapped values have gone since the last turn."""
        if self._unpins:
            unpins = [self._unpins.popleft() for _ in range(len(self._unpins))]
            self._core.peers.raylet.send(m.UnpinObjects(unpins))
