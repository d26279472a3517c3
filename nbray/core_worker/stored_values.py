"""Large values: written into the arena of this node, and mapped from there for reading."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbray.core_worker.call_site import where_made
from nbray.core_worker.locations import Locations
from nbray.core_worker.serialization import Serialized
from nbray.core_worker.value_kind import kind_of
from nbray.exceptions import (
    GetTimeoutError,
    LocalRayletDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
)
from nbray.object_store.arena import Arena, map_file
from nbray.object_store.client import Room
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire.connection import Connection
from nbray.wire.records import Address, Stored, Value
from nbray.wire.waiting import Waiter

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

_CREATE_TIMEOUT_S = 600.0
_STORE_ERRORS = {"full": ObjectStoreFullError, "disk": OutOfDiskError, "lost": ObjectLostError}


class StoredValues:
    """This process's side of the object store. Its methods may be called from any thread."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._arena: Arena | None = None
        self._pinned: dict[bytes, list[Callable[[om.ObjectPinned | None], None]]] = {}
        self._unpins: deque[bytes] = deque()
        self._locations = Locations(core)
        self._room = Room(core.config, self._send_soon, core.reactor.call_later)
        peers = core.peers
        peers.handlers[om.ObjectCreated] = lambda _peer, reply: peers.answer(
            ("create", reply.object_id), reply
        )
        peers.handlers[om.ObjectPinned] = self._on_pinned
        peers.handlers[om.RoomLent] = lambda _peer, message: self._room.lent(message)
        peers.handlers[om.ReclaimRoom] = lambda _peer, _message: self._room.reclaim()
        peers.on_closed.append(self._on_closed)

    def attach(self, path: str, size: int) -> None:
        """Map the arena of this node."""
        self._arena = Arena.attach(path, size)

    # --- written --------------------

    def store(
        self, object_id: bytes, packed: Serialized, owner: Address, inline: bool = True
    ) -> Value:
        """The value inline when it is small and may be, else written into the arena.

        Raises:
            ObjectStoreFullError: there was no room in time.
            OutOfDiskError: nor was there room on the disk for what lies in the arena.
        """
        core = self._core
        if inline and packed.size <= core.config.max_inline_bytes:
            return Value(packed.to_bytes(), None, False, packed.contained)
        assert self._arena is not None
        size = packed.size
        label = where_made()
        # Only the owner announces by itself: then its free cannot overtake its announcement.
        offset = self._room.cut(size) if owner.worker_id == core.worker_id else None
        complete: m.Message
        if offset is not None:
            complete = om.ObjectWritten(object_id, offset, size, label)
        else:
            created: om.ObjectCreated = core.peers.request(
                ("create", object_id), om.CreateObject(object_id, size, owner, label),
                _CREATE_TIMEOUT_S,
            )  # fmt: skip
            if created.error:
                raise _STORE_ERRORS[created.kind](created.error)
            offset = created.offset
            complete = om.SealObject(object_id)
        packed.write_into(self._arena.view(offset, size))
        self._send_soon(complete)
        stored = Stored(size, [core.address.node_id], kind_of(packed.value))
        return Value(None, stored, False, packed.contained)

    def _send_soon(self, message: m.Message) -> None:
        """To the raylet, before anything that this process sends later; from any thread."""
        reactor, raylet = self._core.reactor, self._core.peers.raylet
        reactor.inbox.append(lambda: raylet.send(message))
        reactor.nudge()

    # --- read --------------------

    def map(
        self, object_id: bytes, owner: Address, stored: Stored, deadline: float | None
    ) -> memoryview | Value:
        """A read-only view of the value, pinned until the last array over it has gone.

        Another value instead, when the owner says that it is not in an arena any more.

        Raises:
            GetTimeoutError: it was not here by ``deadline``.
            ObjectLostError: no node that its owner knows has it.
        """
        tried: set[bytes] = set()
        while True:
            tried.update(stored.node_ids)
            reply = self._pin(object_id, owner, stored, deadline)
            if not reply.error:
                return self._view(reply)
            newer = None
            if reply.kind == "lost":
                newer = self._locations.newer(object_id, owner, tried, deadline)
            if newer is None and deadline is not None and time.monotonic() >= deadline:
                raise GetTimeoutError(
                    f"Get timed out while object {object_id.hex()} was looked for or made again: "
                    f"{reply.error}"
                )
            if newer is None:
                raise _STORE_ERRORS[reply.kind](reply.error)
            if newer.stored is None:
                return newer
            stored = newer.stored

    def _view(self, reply: om.ObjectPinned) -> memoryview:
        object_id = reply.object_id
        if reply.path:
            try:
                return map_file(reply.path, reply.offset, reply.size)
            finally:
                self._unpin(object_id)  # the mapping keeps what it shows
        assert self._arena is not None
        return self._arena.pinned_view(reply.offset, reply.size, lambda: self._unpin(object_id))

    def _pin(
        self, object_id: bytes, owner: Address, stored: Stored, deadline: float | None
    ) -> om.ObjectPinned:
        """Ask the raylet for the object: its answer, also when that is an error."""
        reactor, raylet = self._core.reactor, self._core.peers.raylet
        waiter = Waiter()
        answers: list[om.ObjectPinned | None] = []
        abandoned = False

        def on_pinned(reply: om.ObjectPinned | None) -> None:
            answers.append(reply)
            waiter.complete_one()
            if abandoned:
                abandon()

        def abandon() -> None:
            nonlocal abandoned
            abandoned = True
            if answers and answers[0] is not None and not answers[0].error:
                self._unpins.append(object_id)

        def ask() -> None:
            if raylet.closed:
                on_pinned(None)
                return
            self._pinned.setdefault(object_id, []).append(on_pinned)
            raylet.send(om.GetObject(object_id, stored, owner))

        reactor.post(ask)
        left = None if deadline is None else max(0.001, deadline - time.monotonic())
        try:
            if not reactor.wait(waiter, left):
                raise GetTimeoutError(f"Get timed out while object {object_id.hex()} was fetched.")
        except BaseException:
            reactor.post(abandon)
            raise
        reply = answers[0]
        if reply is None:
            raise LocalRayletDiedError(
                "The raylet of this node has died, and the values in its store with it. "
                "Its log, raylet.log, says why."
            )
        return reply

    def _unpin(self, object_id: bytes) -> None:
        self._unpins.append(object_id)
        self._core.reactor.nudge()

    # --- under the baton --------------------

    def _on_pinned(self, _peer: Connection, reply: om.ObjectPinned) -> None:
        waiting = self._pinned.get(reply.object_id)
        if waiting:
            waiting.pop(0)(reply)
            if not waiting:
                del self._pinned[reply.object_id]

    def _on_closed(self, connection: Connection) -> None:
        if connection is self._core.peers.raylet:
            pinned, self._pinned = self._pinned, {}
            for waiting in pinned.values():
                for on_pinned in waiting:
                    on_pinned(None)

    def send_unpins(self) -> None:
        """Tell the raylet which mapped values have gone since the last turn."""
        if self._unpins:
            unpins = [self._unpins.popleft() for _ in range(len(self._unpins))]
            self._core.peers.raylet.send(om.UnpinObjects(unpins))
