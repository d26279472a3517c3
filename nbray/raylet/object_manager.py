"""Objects of this node and their way between nodes.

An object that is asked for and lies elsewhere is pulled, in chunks, into this node's arena as a
secondary copy. The node that it came from remembers who has copies; so a free, which the owner's
raylet sends to the nodes that the owner knows, reaches them all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import msgspec

from nbray.common.config import Config
from nbray.object_store.arena import Arena
from nbray.raylet.leases import Process
from nbray.raylet.nodes import NodeTable
from nbray.raylet.store import ObjectTable
from nbray.wire import messages as m
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import RpcError

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 4 << 20
_CHUNKS_IN_FLIGHT = 3
_RETRY_S = 0.1
_DROP_DELAY_S = 0.02


class PullChunk(msgspec.Struct, array_like=True):
    """Raylet to raylet: the bytes of an object from ``offset`` on. Answered by `Chunk`."""

    object_id: bytes
    offset: int
    node_id: bytes


class Chunk(msgspec.Struct, array_like=True):
    """Raylet to raylet; ``error`` says why there are no bytes."""

    data: bytes
    error: str = ""


class DropObjects(msgspec.Struct, array_like=True):
    """Raylet to raylet: nobody refers to these objects any more. Answered by `Empty`."""

    object_ids: list[bytes]


class ProcessGone(msgspec.Struct, array_like=True):
    """Raylet to the others: that process ended, and with ``job_id`` its job. By `Empty`."""

    worker_id: bytes
    job_id: bytes = b""


class _NoRoomError(Exception):
    """The store stayed full; the text names the biggest holders."""


@dataclass
class _Creation:
    since: float
    object_id: bytes
    size: int
    owner_id: bytes
    creator: Hashable
    secondary: bool
    answer: Callable[[int, str], None]


class ObjectManager:
    """The arena with its table, the creations and readers that wait, and the transfers."""

    def __init__(self, node_id: bytes, store_bytes: int, nodes: NodeTable, config: Config) -> None:
        self.arena = Arena.create(store_bytes)
        self.table = ObjectTable(store_bytes)
        self._node_id = node_id
        self._nodes = nodes
        self._full_wait_s = config.store_full_wait_s
        self._creations: list[_Creation] = []
        self._retry: asyncio.TimerHandle | None = None
        self._readers: dict[bytes, list[Process]] = {}
        self._pulls: dict[bytes, asyncio.Task[None]] = {}
        self._copies: dict[bytes, set[bytes]] = {}
        self._drops: dict[bytes, list[bytes]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    # --- a process of this node writes --------------------

    def create(self, process: Process, message: m.CreateObject) -> None:
        """Make room for an object; answered at once, or when there is room, or too late."""

        def answer(offset: int, error: str) -> None:
            process.send(m.ObjectCreated(message.object_id, offset, error))

        self._create(
            _Creation(
                time.monotonic(), message.object_id, message.size, message.owner_id, process,
                False, answer,
            )
        )  # fmt: skip

    def _create(self, creation: _Creation) -> None:
        self._creations.append(creation)
        self._serve_creations()

    def _serve_creations(self) -> None:
        """Serve creations in order; one that does not fit waits for room, then fails."""
        waiting: list[_Creation] = []
        for creation in self._creations:
            offset = self.table.create(
                creation.object_id, creation.size, creation.owner_id, creation.creator,
                creation.secondary,
            )  # fmt: skip
            if offset is not None:
                creation.answer(offset, "")
            elif (
                creation.size > self.table.allocator.capacity
                or time.monotonic() - creation.since > self._full_wait_s
            ):
                creation.answer(0, self._full(creation.size))
            else:
                waiting.append(creation)
        self._creations = waiting
        if waiting and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._retry_creations)

    def _retry_creations(self) -> None:
        self._retry = None
        self._serve_creations()

    def _full(self, size: int) -> str:
        allocator = self.table.allocator
        return (
            f"The object store of node {self._node_id.hex()[:8]} has no room for "
            f"{size / 1e6:.1f} MB: "
            f"{allocator.used / 1e6:.1f} of {allocator.capacity / 1e6:.1f} MB are in use. "
            f"The largest: {self.table.holders() or 'none'}. "
            "Drop refs, or start the node with a larger --object-store-memory."
        )

    def seal(self, object_id: bytes) -> None:
        """The object is complete: its readers go on."""
        self.table.seal(object_id)
        self._settle(object_id, "its owner freed it")
        self._serve_creations()

    # --- a process of this node reads --------------------

    def get(self, process: Process, message: m.GetObject) -> None:
        """Pin an object for a process, and pull it first if it is not here."""
        object_id = message.object_id
        self._readers.setdefault(object_id, []).append(process)
        if object_id in self._pulls or self.table.is_written(object_id):
            return
        sources = [n for n in message.stored.node_ids if n != self._node_id]
        if self.table.locate(object_id) is None and sources:
            pull = asyncio.get_running_loop().create_task(self._pull(message, sources))
            self._pulls[object_id] = pull
        else:
            self._settle(object_id, "it is not in the store of its node any more")

    def _settle(self, object_id: bytes, cause: str) -> None:
        """Answer all readers of an object: it is here now, or it is lost and this is why."""
        for process in self._readers.pop(object_id, ()):
            if process.closed:
                continue
            pinned = self.table.pin(object_id, process)
            if pinned is not None:
                process.send(m.ObjectPinned(object_id, *pinned))
            else:
                error = f"Object {object_id.hex()} is lost: {cause}."
                process.send(m.ObjectPinned(object_id, 0, 0, error))

    def unpin(self, process: Process, object_ids: Iterable[bytes]) -> None:
        """The process reads them no more."""
        for object_id in object_ids:
            self.table.unpin(object_id, process)
        self._serve_creations()

    # --- between nodes --------------------

    async def _pull(self, message: m.GetObject, sources: list[bytes]) -> None:
        object_id, size = message.object_id, message.stored.size
        cause = "the transfer failed"
        try:
            offset = await self._room_for_copy(object_id, size, message.owner.worker_id)
            view = self.arena.view(offset, size)
            for node_id in sources:
                try:
                    await self._copy(object_id, node_id, view)
                except* RpcError as failed:
                    cause = str(failed.exceptions[0])
                    logger.warning("A copy of object %s failed: %s", object_id.hex()[:16], cause)
                else:
                    self.table.seal(object_id)
                    break
        except _NoRoomError as error:
            cause = str(error)
        finally:
            self.table.abort(object_id)
            del self._pulls[object_id]
            self._settle(object_id, cause)
            self._serve_creations()

    async def _room_for_copy(self, object_id: bytes, size: int, owner_id: bytes) -> int:
        room: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(offset: int, error: str) -> None:
            if error:
                room.set_exception(_NoRoomError(error))
            else:
                room.set_result(offset)

        self._create(_Creation(time.monotonic(), object_id, size, owner_id, self, True, answer))
        return await room

    async def _copy(self, object_id: bytes, node_id: bytes, view: memoryview) -> None:
        """Fill ``view`` with the object; nobody writes it any more when this returns."""
        client = await self._nodes.client(node_id)
        if client is None:
            raise RpcError(f"its node {node_id.hex()[:8]} is dead")
        starts = iter(range(0, len(view), _CHUNK_BYTES))
        copied = 0

        async def fetch() -> None:  # several run at once and share ``starts``
            nonlocal copied
            for start in starts:
                request = PullChunk(object_id, start, self._node_id)
                chunk = await client.call("PullChunk", request, Chunk, 30.0)
                end = min(start + _CHUNK_BYTES, len(view))
                if chunk.error or len(chunk.data) != end - start:
                    raise RpcError(chunk.error or "its node sent a part of the wrong length")
                view[start:end] = chunk.data
                copied += end - start

        async with asyncio.TaskGroup() as group:
            for _ in range(_CHUNKS_IN_FLIGHT):
                group.create_task(fetch())
        if copied != len(view):
            raise RpcError(f"the connection to its node {node_id.hex()[:8]} was closed")

    async def pull_chunk(self, request: PullChunk) -> Chunk:
        """Part of an object for another node, which is noted to have a copy."""
        place = self.table.locate(request.object_id)
        if place is None:
            return Chunk(b"", f"it is not on node {self._node_id.hex()[:8]} any more")
        self._copies.setdefault(request.object_id, set()).add(request.node_id)
        offset, size = place
        length = min(_CHUNK_BYTES, size - request.offset)
        if request.offset < 0 or length < 0:
            return Chunk(b"", f"there is no byte {request.offset} in an object of {size} bytes")
        return Chunk(bytes(self.arena.view(offset + request.offset, length)))

    def free(self, object_ids: Iterable[bytes], node_ids: Iterable[bytes] = ()) -> None:
        """Nobody refers to the objects: forget them here, on ``node_ids``, and all copies."""
        for object_id in object_ids:
            self.table.free(object_id)
            holders = self._copies.pop(object_id, set()).union(node_ids)
            for node_id in holders - {self._node_id}:
                if not self._drops:
                    asyncio.get_running_loop().call_later(_DROP_DELAY_S, self._send_drops)
                self._drops.setdefault(node_id, []).append(object_id)
        self._serve_creations()

    def _send_drops(self) -> None:
        drops, self._drops = self._drops, {}
        for node_id, object_ids in drops.items():
            self._tell(node_id, "DropObjects", DropObjects(object_ids))

    def _tell(self, node_id: bytes, method: str, request: DropObjects | ProcessGone) -> None:
        async def send() -> None:
            try:
                client = await self._nodes.client(node_id)
                if client is not None:
                    await client.call(method, request, Empty)
            except RpcError as error:
                logger.warning("Memory of node %s may stay taken: %s", node_id.hex()[:8], error)

        task = asyncio.get_running_loop().create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def drop_objects(self, request: DropObjects) -> Empty:
        """Another raylet says that objects are free."""
        self.free(request.object_ids)
        return Empty()

    # --- ends --------------------

    def process_gone(self, process: Process) -> None:
        """Drop what a process of this node wrote, read and owned, here and on other nodes."""
        self._creations = [c for c in self._creations if c.creator is not process]
        gone = self.table.process_gone(process, process.worker_id)
        self.free(gone)
        for object_id in gone:
            self._settle(object_id, "the process that made or owned it has ended")
        if process.worker_id:
            for node in self._nodes.others():
                job_id = process.job_id if process.is_driver else b""
                self._tell(node.node_id, "ProcessGone", ProcessGone(process.worker_id, job_id))

    def owner_gone(self, worker_id: bytes) -> None:
        """A process of another node ended: so do its objects here."""
        self.free(self.table.owner_gone(worker_id))
