"""Large values: written into the arena of this node, and mapped from there for reading."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from nbray.common.config import Config
from nbray.core_worker.call_site import where_made
from nbray.core_worker.failures import value_error
from nbray.core_worker.identity import Identity
from nbray.core_worker.ports import Inbox
from nbray.core_worker.values.ahead import Ahead, Asked, Pin
from nbray.core_worker.values.blocking import Blocking, Waits
from nbray.core_worker.values.memory import Attach, StoreMemory
from nbray.core_worker.values.serialization import Serialized
from nbray.core_worker.values.value_kind import kind_of
from nbray.exceptions import (
    GetTimeoutError,
    LocalRayletDiedError,
    NbraySystemError,
)
from nbray.object_store.client import Room
from nbray.object_store.private_pages import PrivatePages
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire.causes import CauseKind
from nbray.wire.reactor import STOPPED
from nbray.wire.records import Address, Stored, Value
from nbray.wire.waiting import Waiter

_CREATE_TIMEOUT_S = 600.0
_MOST_AHEAD = 64 << 20


class NoCopyFound(Exception):
    """No node of ``tried`` has a value; its owner may know of others, or has it made again."""

    def __init__(self, tried: list[bytes]) -> None:
        super().__init__(tried)
        self.tried = tried


class Turns(Inbox, Waits, Protocol):
    """Work for the holder of the baton, and waits for it (`nbray.wire.reactor.Reactor`)."""

    def nudge(self) -> None:
        """There is something to send before long."""


class StoreOfNode(Protocol):
    """The raylet, which has the store of this node."""

    def to_raylet(self, message: m.Message) -> bool:
        """Send it, under the baton; False when the raylet has ended."""

    def request(self, key: object, message: m.Message, timeout: float | None = None) -> Any:
        """Send ``message`` and wait for the reply for ``key``; from any thread."""


Find = Callable[[bytes, Address, list[bytes], Callable[[Value | None], None]], None]


class StoredValues:
    """This process's side of the object store. Its methods may be called from any thread.

    Attributes:
        unpins: the values that nothing here shows any more, of which the raylet is to be told.
        most_ahead: so many bytes may be asked for before their turn comes, and one value.
    """

    def __init__(
        self, config: Config, me: Identity, turns: Turns, raylet: StoreOfNode, blocking: Blocking,
        find: Find, attach: Attach, free_first: Callable[[], None],
    ) -> None:  # fmt: skip
        """``find`` asks the owner of a value where it is, under the baton (`own.locations`).

        ``attach`` gives the memory of the store; ``free_first`` has what nobody refers to any more
        freed before whatever is posted next.
        """
        self._config = config
        self._me = me
        self._turns = turns
        self._raylet = raylet
        self._blocking = blocking
        self._find = find
        self._attach = attach
        self._free_first = free_first
        self._memory: StoreMemory | None = None
        self.most_ahead = 0
        self._pinned: dict[bytes, list[Asked]] = {}
        self.unpins: deque[bytes] = deque()
        self._told: deque[m.Message] = deque()
        self.room = Room(config, self._send_soon, turns.call_later)

    def attach(self, path: str, size: int) -> None:
        """The raylet says where the memory of the store is."""
        self._memory = self._attach(path, size, self._me.worker_id)
        self.most_ahead = min(_MOST_AHEAD, size // 8)

    def detach(self) -> None:
        """Let go of the memory; arrays over it live on, and keep it mapped."""
        self._memory = None

    def private(self, view: memoryview) -> PrivatePages | None:
        """Memory with the bytes of ``view`` that may be written; None: copy it."""
        return self._memory.private(view) if self._memory is not None else None

    def _reached(self) -> StoreMemory:
        if self._memory is None:
            raise NbraySystemError(STOPPED)
        return self._memory

    # --- written --------------------

    def store(
        self, object_id: bytes, packed: Serialized, owner: Address, inline: bool = True,
        first: bool = False,
    ) -> Value:  # fmt: skip
        """The value inline when it is small and may be, else written into the arena or a file.

        ``first``: nobody has made a value under that id before, and this process makes no other.

        Raises:
            ObjectStoreFullError: an earlier value of the object is still in use.
            OutOfDiskError: there was no room in time, nor on the disk.
        """
        if inline and packed.size <= self._config.max_inline_bytes:
            return Value(packed.to_bytes(), None, False, packed.contained)
        size = packed.size
        label = where_made()
        complete: m.Message
        path = ""
        try:
            memory = self._reached()
            # Of a value that is made again, the raylet decides first what becomes of the old one.
            own = owner.worker_id == self._me.worker_id
            cuts = memory.is_mapped and (own or first)
            offset = self.room.cut(object_id, size) if cuts else None
            if offset is not None:
                written_for = None if own else owner
                complete = om.ObjectWritten(object_id, offset, size, label, written_for)
            else:
                self._free_first()  # the place of the value before is mapped, and warm
                self._turns.inbox.append(self.send_unpins)
                created: om.ObjectCreated = self._raylet.request(
                    ("create", object_id), om.CreateObject(object_id, size, owner, label),
                    _CREATE_TIMEOUT_S,
                )  # fmt: skip
                if created.cause is not None:
                    raise value_error(created.cause)
                path, offset = created.path, created.offset
                complete = om.SealObject(object_id)
            memory.write(packed, path, offset)
            self._send_soon(complete)
            stored = Stored(size, (self._me.address.node_id,), kind_of(packed.value))
            return Value(None, stored, False, packed.contained)
        except BaseException:
            self.discard(object_id)
            raise

    def discard(self, object_id: bytes) -> None:
        """Nobody will use what this process has made, or begun to make, under that id.

        It may be called for what was never begun: whoever is interrupted cannot always know.
        """

        def act() -> None:
            self.tell()
            self.room.give_up(object_id)
            self.tell()
            self._raylet.to_raylet(om.DiscardObject(object_id))

        self._turns.post(act)

    def _send_soon(self, message: m.Message) -> None:
        """To the raylet, before anything that this process sends later; from any thread."""
        self._told.append(message)
        self._turns.inbox.append(self.tell)
        self._turns.nudge()

    def tell(self) -> None:
        """Send what other threads have left for the raylet. Under the baton.

        Each free comes by here first: an object's last ref may die in the turn in which its
        announcement still waits, and the raylet would keep what is announced after its end.
        """
        told = self._told
        while told:
            message = told.popleft()
            if type(message) is om.ObjectWritten:
                self.room.announced(message.object_id)
            self._raylet.to_raylet(message)

    # --- read --------------------

    def map(
        self, object_id: bytes, owner: Address, stored: Stored, deadline: float | None,
        ask_owner: bool = True, asked: Asked | None = None,
    ) -> memoryview | Value:  # fmt: skip
        """A read-only view of the value, pinned until the last array over it has gone.

        Another value instead, when the owner says that it is not in an arena any more. ``asked``:
        the raylet was asked for it already.

        Raises:
            NoCopyFound: the owner is to be asked, and that is not for us to do.
            GetTimeoutError: it was not here by ``deadline``.
            ObjectLostError: no node that its owner knows has it.
        """
        tried: set[bytes] = set()
        while True:
            tried.update(stored.node_ids)
            if asked is None:
                asked = Asked(object_id, owner, stored)
                self.ask([asked])
            pin = self._answer(asked, deadline)
            asked = None
            reply = pin.reply
            cause = reply.cause
            if cause is None:
                return self._view(pin, deadline)
            newer = None
            if cause.kind is CauseKind.LOST:
                if not ask_owner:
                    raise NoCopyFound(list(tried))
                newer = self.newer(object_id, owner, tried, deadline)
            if newer is None and deadline is not None and time.monotonic() >= deadline:
                raise GetTimeoutError(
                    f"Get timed out while object {object_id.hex()} was looked for or made again: "
                    f"{cause}"
                )
            if newer is None:
                raise value_error(cause)
            if newer.stored is None:
                return newer
            stored = newer.stored

    def _view(self, pin: Pin, deadline: float | None) -> memoryview:
        reply = pin.reply
        nudge = self._turns.nudge

        def gone() -> None:
            pin.release()
            nudge()

        return self._reached().read(
            reply.object_id, reply.path, reply.offset, reply.size, gone, deadline
        )

    def ahead(self, wanted: Iterable[Asked]) -> Ahead:
        """Asks for those values before they are mapped, one after the other."""
        return Ahead(wanted, self.ask, self.most_ahead)

    def ask(self, several: list[Asked]) -> None:
        """Ask the raylet for objects."""

        def ask() -> None:
            for asked in several:
                self._pinned.setdefault(asked.object_id, []).append(asked)
                message = om.GetObject(asked.object_id, asked.stored, asked.owner)
                if not self._raylet.to_raylet(message):
                    self.raylet_gone()

        self._turns.post(ask)

    def _answer(self, asked: Asked, deadline: float | None) -> Pin:
        """The raylet's answer, also when that is an error."""
        left = None if deadline is None else max(0.001, deadline - time.monotonic())
        if not asked.answers and not self._turns.wait(asked.waiter, left):
            raise GetTimeoutError(
                f"Get timed out while object {asked.object_id.hex()} was fetched."
            )
        pin = asked.answers[0]
        if pin is None:
            raise LocalRayletDiedError(
                "The raylet of this node has died, and the values in its store with it. "
                "Its log, raylet.log, says why."
            )
        return pin

    def newer(
        self, object_id: bytes, owner: Address, tried: set[bytes], deadline: float | None
    ) -> Value | None:
        """The value as its owner knows it, which no node of ``tried`` has any more.

        None when the owner does not know the object, and at the ``deadline``.
        """
        waiter = Waiter()
        answer: list[Value | None] = []

        def on_value(value: Value | None) -> None:
            answer.append(value)
            waiter.complete_one()

        self.find(object_id, owner, list(tried), on_value)
        left = None if deadline is None else max(0.001, deadline - time.monotonic())
        return answer[0] if self._blocking.wait(waiter, left) else None

    def find(
        self, object_id: bytes, owner: Address, tried: list[bytes],
        then: Callable[[Value | None], None],
    ) -> None:  # fmt: skip
        """``then`` gets, under the baton, what `newer` gives."""
        self._turns.post(lambda: self._find(object_id, owner, tried, then))

    # --- under the baton --------------------

    def on_pinned(self, reply: om.ObjectPinned) -> None:
        """The raylet answers a reader."""
        waiting = self._pinned.get(reply.object_id)
        if waiting:
            asked = waiting.pop(0)
            asked.answers.append(Pin(reply, self.unpins))
            asked.waiter.complete_one()
            if not waiting:
                del self._pinned[reply.object_id]

    def raylet_gone(self) -> None:
        """The raylet has ended: nobody gets an answer."""
        pinned, self._pinned = self._pinned, {}
        for waiting in pinned.values():
            for asked in waiting:
                asked.answers.append(None)
                asked.waiter.complete_one()

    def send_unpins(self) -> None:
        """Tell the raylet which mapped values have gone since the last turn."""
        unpins = [self.unpins.popleft() for _ in range(len(self.unpins))]
        if unpins:
            self._raylet.to_raylet(om.UnpinObjects(unpins))
