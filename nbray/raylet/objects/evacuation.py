"""Values move away from a node that drains: those whose only copies are there.

The draining raylet says to another which values it is to keep; that one pulls them as it would for
a reader, keeps them as if they had been made there, and answers once their owners have heard of
the copies. So an owner that hears later that the first node has left finds another primary copy.
What is owned by a process of the draining node itself ends with that process, and stays.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from typing import Protocol

from nbray.raylet.nodes import NodeTable
from nbray.raylet.objects.table import ObjectTable
from nbray.wire.grpc_service import RpcError
from nbray.wire.records import Address
from nbray.wire.scaling_messages import ObjectsTaken, TakeObject, TakeObjects

logger = logging.getLogger(__name__)

_BATCH_BYTES = 256 << 20
_BATCH_OBJECTS = 200
_AT_ONCE = 4
_PATIENCE_S = 30.0
_SLOWEST_BYTES_PER_S = 4 << 20


class Copies(Protocol):
    """How copies come here, and how owners hear of them."""

    async def bring(self, object_id: bytes, size: int, owner: Address, source: bytes) -> bool:
        """Have the copy that counts here, from that node if need be; whether it is."""

    async def announce(self, owner_node: bytes, owner_id: bytes, object_ids: list[bytes]) -> None:
        """Tell an owner of copies, and return when its raylet has heard."""


class Evacuation:
    """Both sides: `move_all` of the node that drains, `take` of one that does not."""

    def __init__(
        self, node_id: bytes, table: ObjectTable, nodes: NodeTable, copies: Copies
    ) -> None:
        self._node_id = node_id
        self._table = table
        self._nodes = nodes
        self._copies = copies

    async def move_all(self) -> str:
        """Move what is here and lives on; returns why some of it stays, or nothing."""
        batches = iter(list(self._batches()))
        targets = [row.node_id for row in self._nodes.others() if row.takes_work]
        troubles: list[str] = []

        async def send(target: bytes) -> None:  # several run at once and share ``batches``
            for batch in batches:
                troubles.extend(filter(None, [await self._send(target, batch)]))

        await asyncio.gather(*(send(target) for target in targets))
        left = [stored.size for _object_id, stored in self._mine()]
        if not left:
            return ""
        why = troubles[0] if troubles else "no other node takes them"
        return f"{len(left)} values ({sum(left) / 1e6:.1f} MB) that are only here: {why}"

    def _mine(self) -> Iterator[tuple[bytes, TakeObject]]:
        for object_id, stored in self._table.primaries():
            if stored.owner_node not in (b"", self._node_id):
                yield (
                    object_id,
                    TakeObject(object_id, stored.size, stored.owner_id, stored.owner_node),
                )

    def _batches(self) -> Iterator[list[TakeObject]]:
        batch: list[TakeObject] = []
        for _object_id, taken in self._mine():
            batch.append(taken)
            full = len(batch) >= _BATCH_OBJECTS
            if full or sum(one.size for one in batch) >= _BATCH_BYTES:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _send(self, target: bytes, batch: list[TakeObject]) -> str:
        """Have another node take some; why it does not take all."""
        size = sum(one.size for one in batch)
        try:
            client = await self._nodes.client(target)
            if client is None:
                return "the other node has left"
            answer = await client.call(
                "TakeObjects", TakeObjects(self._node_id, batch), ObjectsTaken,
                _PATIENCE_S + size / _SLOWEST_BYTES_PER_S,
            )  # fmt: skip
        except RpcError as error:
            return f"node {target.hex()[:8]} did not take them: {error}"
        for object_id in answer.object_ids:
            self._table.is_elsewhere(object_id)
        return answer.why and f"node {target.hex()[:8]}: {answer.why}"

    async def take(self, request: TakeObjects) -> ObjectsTaken:
        """Keep values of a node that drains."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(asked: TakeObject) -> bool:
            owner = Address(asked.owner_id, asked.owner_node, "", "", 0)
            async with turns:
                return await self._copies.bring(
                    asked.object_id, asked.size, owner, request.source
                )  # fmt: skip

        there = await asyncio.gather(*(one(asked) for asked in request.objects))
        taken = [asked for asked, is_here in zip(request.objects, there, strict=True) if is_here]
        told: list[bytes] = []
        why = "" if len(taken) == len(request.objects) else "it could not copy all of them"

        def owner_of(asked: TakeObject) -> tuple[bytes, bytes]:
            return asked.owner_node, asked.owner_id

        for (node_id, owner_id), same in itertools.groupby(sorted(taken, key=owner_of), owner_of):
            object_ids = [asked.object_id for asked in same]
            try:
                await self._copies.announce(node_id, owner_id, object_ids)
            except RpcError as error:
                why = f"their owner's node {node_id.hex()[:8]} did not answer: {error}"
            else:
                told += object_ids
        return ObjectsTaken(told, why)
