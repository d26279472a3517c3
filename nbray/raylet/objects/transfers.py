"""The bytes of objects between this node and others: fetched, given, and given on while they come.

An object is fetched in parts, several at once and in an order of chance, so that nodes that want
the same one soon have what others lack; see `tree` for who is sent to whom. What has come may be
given on before the rest has.

Nodes of one machine copy out of each other's memory instead: there is no network to be spared, so
each asks the node that has the object, in large parts, and one at a time, since one copy after the
other leaves the other cores to whoever else copies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from nbray.common.config import Config
from nbray.object_store.neighbour import machine_id
from nbray.raylet.nodes import NodeTable
from nbray.raylet.objects.receiver import ObjectReceiver, TransferError, UnreachedError
from nbray.raylet.objects.sender import Answer, Elsewhere, Nearby, ObjectSender, Part
from nbray.raylet.objects.table import Stored
from nbray.raylet.objects.tree import ROOT, Tree
from nbray.wire.bulk import NO_MACHINE, Request
from nbray.wire.grpc_service import RpcError
from nbray.wire.tls import Tls

logger = logging.getLogger(__name__)

_ANNOUNCE_S = 0.5
_AGAIN_S = 0.1
_LONGEST_PAUSE_S = 1.0
_RECEIVER_KEPT_S = 10.0
_NEAR_PART = 32 << 20
_LEAST_SHARED = 1 << 20
"""A smaller object is given by the node that is asked: it is there sooner than another is asked."""
_SENT_ON_WAIT_S = 3.0
_SENT_ON_STALL_S = 5.0
"""Who was sent on goes back to the node that sent it rather than to wait for long."""


class Lender(Protocol):
    """The store, to whoever sends out of it."""

    def locate(self, object_id: bytes) -> Stored | None:
        """The object, if it is complete here."""

    def lend(self, object_id: bytes, offset: int, length: int) -> Part | str:
        """Part of it; or why there is none. Raises OSError: something is lacking to send it now."""

    def lend_unfinished(self, object_id: bytes, offset: int, length: int) -> Part | None:
        """Part of one that is being written."""


@dataclass
class _Incoming:
    """An object that comes, in parts of ``length``; ``came`` has where those begin that came."""

    size: int
    length: int = 1
    came: set[int] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def has(self, offset: int, length: int) -> bool:
        """Whether that part is here."""
        if offset + length > self.size:
            return False
        first = offset // self.length * self.length
        return all(at in self.came for at in range(first, offset + length, self.length))

    def tell(self) -> None:
        """Wake those who wait for a part."""
        self.changed.set()
        self.changed = asyncio.Event()


class Transfers:
    """The sockets to and from other raylets, and what moves on them."""

    def __init__(
        self, node_id: bytes, store: Lender, nodes: NodeTable, config: Config, token: bytes,
        tls: Tls | None,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._store = store
        self._nodes = nodes
        self._config = config
        self._token = token
        self._tls = tls
        self._machine = machine_id() if config.share_machine_memory else NO_MACHINE
        self.sender = ObjectSender(self._answer, self._answer_now, config.pull_timeout_s)
        self._receivers: dict[tuple[bytes, bool], ObjectReceiver] = {}
        self._received: Counter[bytes] = Counter()
        self._incoming: dict[bytes, _Incoming] = {}
        self._trees: dict[bytes, tuple[Stored, Tree]] = {}
        self._copies: dict[bytes, set[bytes]] = {}
        self._awaited: dict[bytes, asyncio.Event] = {}

    # --- fetched --------------------

    async def bring(
        self, object_id: bytes, sources: list[bytes], target: memoryview,
        wanted: Callable[[], bool], touch: Callable[[int, int], None] | None = None,
    ) -> str:  # fmt: skip
        """Copy an object from the first node that can give it; the cause if none can.

        A node that lives and cannot be asked is asked again, for as long as connections between
        processes have: a value is not lost because a descriptor was lacking, or a cable was cut.

        Args:
            object_id: the object.
            sources: nodes that have it.
            target: where it is written; nobody writes there when this returns.
            wanted: whether somebody waits for it still.
            touch: has the memory of a part of it ready for writing; given if what has come is the
                store's to lend.
        """
        until = time.monotonic() + self._config.peer_patience_s
        pause_s = _AGAIN_S
        while True:
            cause, may_come = await self._bring_once(object_id, sources, target, touch)
            if not cause or not may_come or time.monotonic() >= until or not wanted():
                return cause
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _bring_once(
        self, object_id: bytes, sources: list[bytes], target: memoryview,
        touch: Callable[[int, int], None] | None,
    ) -> tuple[str, bool]:  # fmt: skip
        """Why it did not come, and whether it may if it is asked for again."""
        cause, may_come = "no node is known to have it", False
        for node_id in sources:
            incoming = _Incoming(len(target))
            if touch is not None:
                self._incoming[object_id] = incoming
            try:
                await self._copy(object_id, node_id, target, incoming, touch or _nothing)
            except (RpcError, TransferError) as error:
                cause = str(error)
                may_come = may_come or isinstance(error, UnreachedError)
                logger.warning("A copy of object %s failed: %s", object_id.hex()[:16], cause)
            else:
                return "", False
            finally:
                self._incoming.pop(object_id, None)
                incoming.tell()
        return cause, may_come

    async def _copy(
        self, object_id: bytes, node_id: bytes, target: memoryview, incoming: _Incoming,
        touch: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        """Write the whole object.

        Raises:
            RpcError: the node is new here, and the GCS does not answer.
            TransferError: the node is dead, or did not send all of it.
        """
        receiver = await self._receiver(node_id)
        if receiver is None:
            raise TransferError(f"its node {node_id.hex()[:8]} is dead")
        size, length = len(target), self._config.pull_chunk_bytes
        most_at_once = self._config.pull_chunks_in_flight
        if receiver.is_near:
            length, most_at_once = max(length, _NEAR_PART), 1
        incoming.length = length
        order = list(range(0, size, length)) or [0]
        random.shuffle(order)
        starts = iter(order)
        failed: list[TransferError] = []

        async def fetch() -> None:  # several run at once and share ``starts``
            for start in starts:
                if failed:
                    return
                part = target[start : start + length]
                request = Request(object_id, self._node_id, start, len(part), machine=self._machine)
                try:
                    await receiver.fetch(request, part, partial(touch, start, len(part)))
                except TransferError as error:
                    failed.append(error)
                    return
                incoming.came.add(start)
                incoming.tell()

        at_once = min(len(order), most_at_once)
        if at_once == 1:
            await fetch()
        else:
            await asyncio.gather(*(fetch() for _ in range(at_once)))
        if failed:
            said = (error for error in failed if not isinstance(error, UnreachedError))
            raise next(said, failed[0])

    async def _receiver(self, node_id: bytes, sent_on: bool = False) -> ObjectReceiver | None:
        """Who fetches from a node; None if it is dead.

        Raises:
            RpcError: the node is new here, and the GCS does not answer.
        """
        row = await self._nodes.find(node_id)
        if row is None:
            return None
        receiver = self._receivers.get((node_id, sent_on))
        if receiver is None:
            connect_s, stall_s = self._config.handshake_timeout_s, self._config.pull_timeout_s
            if sent_on:
                connect_s = stall_s = _SENT_ON_STALL_S
            loop = asyncio.get_running_loop()
            receiver = self._receivers[node_id, sent_on] = ObjectReceiver(
                f"its node {node_id.hex()[:8]}", row.host, row.frame_port, self._token,
                self._tls, connect_s, stall_s, lambda other: self._other(other, loop),
            )  # fmt: skip
        receiver.keep()
        return receiver

    def _other(self, node_id: bytes, loop: asyncio.AbstractEventLoop) -> ObjectReceiver | None:
        """Who fetches from a node that another one named. In a thread of a receiver's."""
        asked = asyncio.run_coroutine_threadsafe(self._receiver(node_id, sent_on=True), loop)
        try:
            return asked.result(_SENT_ON_STALL_S)
        except (RpcError, TimeoutError) as error:
            asked.cancel()
            logger.info("Node %s was not found: %s", node_id.hex()[:8], error)
            return None

    # --- given --------------------

    async def _answer(self, request: Request) -> Answer:
        """Part of an object for another node, which is noted to have a copy."""
        if request.sent_on:
            await self._until_here(request)
        elif self._store.locate(request.object_id) is None:
            await self._until_announced(request.object_id)
        return self._known(request)

    async def _until_announced(self, object_id: bytes) -> None:
        """Wait a moment: the maker of a value may tell others of it before its raylet."""
        announced = self._awaited.setdefault(object_id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(announced.wait(), _ANNOUNCE_S)
        self._awaited.pop(object_id, None)

    def announced(self, object_id: bytes) -> None:
        """An object has become readable here."""
        waiting = self._awaited.get(object_id)
        if waiting is not None:
            waiting.set()

    def _answer_now(self, request: Request) -> Answer | None:
        """The same, unless it is worth while to wait for the object."""
        return self._known(request) if self._store.locate(request.object_id) is not None else None

    def _known(self, request: Request) -> Answer:
        object_id = request.object_id
        stored = self._store.locate(object_id)
        is_near = request.machine == self._machine != NO_MACHINE
        if stored is None and request.sent_on:
            part = self._unfinished(request)
            if part is not None:
                self._note_copy(request)
                return _as_seen(part, is_near)
        if (
            stored is None or request.sent_on or stored.size < _LEAST_SHARED
            or (is_near and stored.block is not None)
        ):  # fmt: skip
            lent = self._store.lend(object_id, request.offset, request.length)
            if isinstance(lent, Part):
                self._note_copy(request)
                return _as_seen(lent, is_near)
            return lent
        self._note_copy(request)
        return self._shared(request, stored)

    def _note_copy(self, request: Request) -> None:
        self._copies.setdefault(request.object_id, set()).add(request.node_id)

    def _shared(self, request: Request, stored: Stored) -> Answer:
        """The part, or a node that gives it."""
        of, tree = self._trees.get(request.object_id, (None, None))
        if tree is None or of is not stored:  # a value that was made again has no copies yet
            tree = Tree()
            self._trees[request.object_id] = stored, tree
        ask = tree.ask(request.node_id, request.offset)
        if ask.giver != ROOT:
            return Elsewhere(ask.giver, lambda came: tree.end(ask, came))
        try:
            part = self._store.lend(request.object_id, request.offset, request.length)
        except OSError:
            tree.end(ask, False)
            raise
        if isinstance(part, str):
            tree.end(ask, False)
            return part
        lent = part

        def end(came: bool) -> None:
            lent.end(came)
            tree.end(ask, came)

        return Part(lent.view, end)

    async def _until_here(self, request: Request) -> None:
        """Wait for a part that is on its way here, but not for long."""
        deadline = time.monotonic() + _SENT_ON_WAIT_S
        while (incoming := self._incoming.get(request.object_id)) is not None:
            left = deadline - time.monotonic()
            if incoming.has(request.offset, request.length) or left <= 0:
                return
            try:
                await asyncio.wait_for(incoming.changed.wait(), left)
            except TimeoutError:
                return

    def _unfinished(self, request: Request) -> Part | None:
        incoming = self._incoming.get(request.object_id)
        if incoming is None or not incoming.has(request.offset, request.length):
            return None
        return self._store.lend_unfinished(request.object_id, request.offset, request.length)

    # --- ends --------------------

    def forget(self, object_id: bytes) -> set[bytes]:
        """Nobody refers to the object any more: the nodes that may have got copies from here."""
        self._trees.pop(object_id, None)
        return self._copies.pop(object_id, set())

    def look_after(self) -> None:
        """End the threads and sockets to nodes from which nothing has come for long."""
        for key, receiver in list(self._receivers.items()):
            if receiver.is_idle(_RECEIVER_KEPT_S):
                del self._receivers[key]
                self._received[key[0]] += receiver.received
                receiver.close()

    def received(self) -> Counter[bytes]:
        """Bytes of objects that have come from each node that lives."""
        found = self._received.copy()
        for (node_id, _sent_on), receiver in self._receivers.items():
            found[node_id] += receiver.received
        return found

    def node_gone(self, node_id: bytes) -> None:
        """A node has ended."""
        for key in ((node_id, False), (node_id, True)):
            receiver = self._receivers.pop(key, None)
            if receiver is not None:
                receiver.close()
        self._received.pop(node_id, None)
        for _, tree in self._trees.values():
            tree.gone(node_id)

    def stop(self) -> None:
        """End all sockets."""
        self.sender.stop()
        for receiver in self._receivers.values():
            receiver.close()


def _as_seen(part: Part, is_near: bool) -> Part | Nearby:
    """The part, or where it lies for somebody who can read it there."""
    return Nearby(part.place, part.end) if is_near and part.place is not None else part


def _nothing(_offset: int, _size: int) -> None:
    """A file has its pages ready."""
