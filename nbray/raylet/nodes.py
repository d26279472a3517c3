"""What this raylet knows of the cluster's nodes, and its gRPC clients of them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from msgspec import structs

from nbray.common.addresses import joined
from nbray.common.background import Background
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.records import NodeInfo

logger = logging.getLogger(__name__)

_WATCH_S = 80.0
_AGAIN_S = 0.5
_DEAD_KEPT = 1000  # an older answer may still say that one of them lives


class NodeTable:
    """The rows of the nodes that are alive, and a client of each node that was asked for.

    Of each row there are two: what the GCS told, and what this raylet believes, who subtracts what
    it has sent there. `settle` ends beliefs that came to nothing.
    """

    def __init__(self, node_id: bytes, gcs: GrpcClient, token: bytes) -> None:
        self._node_id = node_id
        self._gcs = gcs
        self._token = token
        self._told: dict[bytes, NodeInfo] = {}
        self._believed: dict[bytes, NodeInfo] = {}
        self._seen = (b"", 0, 0)
        self._lent = False
        self._dead: dict[bytes, None] = {}
        self._clients: dict[bytes, GrpcClient] = {}
        self._background = Background()

    def others(self) -> list[NodeInfo]:
        """The rows of the other nodes that are alive, as they are believed to be."""
        self._lent = True
        return list(self._believed.values())

    def apply(self, changes: g.NodeChanges) -> list[bytes]:
        """Take in what the GCS tells; returns the nodes that have died since."""
        if changes.epoch:
            self._seen = (changes.epoch, changes.members, changes.rooms)
        died = [row.node_id for row in changes.nodes if not row.alive]
        alive = {row.node_id: row for row in changes.nodes if row.alive}
        if changes.complete:
            died = [node_id for node_id in self._told if node_id not in alive]
        for row in alive.values():
            self._take(row)
        for room in changes.room:
            known = self._told.get(room.node_id)
            if known is not None:
                known.available, known.returning = room.available, room.returning
                known.bundles = room.bundles
                self._take(known)
        return [node_id for node_id in died if self._drop(node_id)]

    def settle(self) -> None:
        """Believe again what was told, of rows from which something was subtracted."""
        if not self._lent:
            return
        self._lent = False
        for node_id, row in self._told.items():
            believed = self._believed[node_id]
            if believed.available != row.available or believed.bundles != row.bundles:
                self._believed[node_id] = _copy(row)

    def _take(self, row: NodeInfo) -> None:
        if row.node_id != self._node_id and row.node_id not in self._dead:
            self._told[row.node_id] = row
            self._believed[row.node_id] = _copy(row)

    def _drop(self, node_id: bytes) -> bool:
        """A node is dead, and never comes back; False if it was not known."""
        self._dead[node_id] = None
        if len(self._dead) > _DEAD_KEPT:
            del self._dead[next(iter(self._dead))]
        client = self._clients.pop(node_id, None)
        if client is not None:
            self._background.start(client.close())
        self._believed.pop(node_id, None)
        return self._told.pop(node_id, None) is not None

    def knows(self, node_id: bytes) -> bool:
        """Whether the node is alive, as far as this raylet has heard."""
        return node_id == self._node_id or node_id in self._told

    async def look_up(self) -> list[bytes]:
        """Ask the GCS for all nodes at once; returns the nodes that have died.

        Raises:
            RpcError: the GCS does not answer.
        """
        return self.apply(await self._ask(complete=True))

    async def _ask(self, complete: bool) -> g.NodeChanges:
        """All rows; of an answer that news have overtaken, those of nodes that are new here.

        It is large, and has another way: a node that it lacks has perhaps joined meanwhile.
        """
        reply = await self._gcs.call("ListNodes", g.Empty(), g.Nodes)
        rows = [row for row in reply.nodes if row.alive]
        epoch, members, rooms = self._seen
        if reply.epoch == epoch and (reply.members < members or reply.rooms < rooms):
            new = [row for row in rows if row.node_id not in self._told]
            return g.NodeChanges(b"", 0, 0, new)
        return g.NodeChanges(b"", 0, 0, rows, complete=complete)

    async def find(self, node_id: bytes) -> NodeInfo | None:
        """The row of a node; None when it is dead or not known to the GCS.

        Raises:
            RpcError: the node is new here, and the GCS does not answer.
        """
        if node_id not in self._told:
            self.apply(await self._ask(complete=False))
        return self._told.get(node_id)

    async def client(self, node_id: bytes) -> GrpcClient | None:
        """The client of a node; None, or an error, as of `find`."""
        row = await self.find(node_id)
        if row is None:
            return None
        client = self._clients.get(node_id)
        if client is None:
            client = GrpcClient(joined(row.host, row.grpc_port), self._token)
            self._clients[node_id] = client
        return client


def _copy(row: NodeInfo) -> NodeInfo:
    """A row of which the room can be changed."""
    bundles = [structs.replace(b, available=dict(b.available)) for b in row.bundles]
    return structs.replace(row, available=dict(row.available), bundles=bundles)


async def watch_nodes(
    node_id: bytes, gcs: GrpcClient, take: Callable[[g.NodeChanges], None]
) -> None:
    """Ask the GCS for news of nodes for ever; each answer is a question's beginning.

    After news that were not taken in, it asks for all nodes again.
    """
    seen = g.WatchNodes(node_id)
    while True:
        try:
            changes = await gcs.call("WatchNodes", seen, g.NodeChanges, _WATCH_S)
        except RpcError as error:
            logger.info("The GCS was not asked for news of nodes: %s", error)
            await asyncio.sleep(_AGAIN_S * random.uniform(0.5, 1.0))
            continue
        seen = g.WatchNodes(node_id, changes.epoch, changes.members, changes.rooms)
        try:
            take(changes)
        except Exception:
            logger.exception("News of nodes were not taken in")
            seen = g.WatchNodes(node_id)
            await asyncio.sleep(_AGAIN_S)
