"""What this raylet knows of the cluster's nodes, and its gRPC clients of them."""

from __future__ import annotations

from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient
from nbray.wire.records import NodeInfo


class NodeTable:
    """The rows of the last report, and a client of each node that was asked for."""

    def __init__(self, node_id: bytes, gcs: GrpcClient, token: bytes) -> None:
        self._node_id = node_id
        self._gcs = gcs
        self._token = token
        self._rows: dict[bytes, NodeInfo] = {}
        self._clients: dict[bytes, GrpcClient] = {}

    def others(self) -> list[NodeInfo]:
        """The rows of the other nodes that are alive."""
        return [n for n in self._rows.values() if n.alive and n.node_id != self._node_id]

    def update(self, rows: list[NodeInfo]) -> set[bytes]:
        """Take in new rows; returns the nodes that have died since the last ones."""
        before = {node.node_id for node in self.others()}
        self._rows = {row.node_id: row for row in rows}
        died = before - {node.node_id for node in self.others()}
        for node_id in died:
            self._clients.pop(node_id, None)
        return died

    def knows(self, node_id: bytes) -> bool:
        """Whether the node is in the rows, dead or alive."""
        return node_id == self._node_id or node_id in self._rows

    async def look_up(self) -> None:
        """Ask the GCS for nodes that are new.

        Raises:
            RpcError: the GCS does not answer.
        """
        reply = await self._gcs.call("ListNodes", g.Empty(), g.Nodes)
        for row in reply.nodes:
            self._rows.setdefault(row.node_id, row)

    async def client(self, node_id: bytes) -> GrpcClient | None:
        """The client of a node; None when it is dead or not known to the GCS.

        Raises:
            RpcError: the node is new here, and the GCS does not answer.
        """
        if node_id not in self._rows:
            await self.look_up()
        row = self._rows.get(node_id)
        if row is None or not row.alive:
            return None
        client = self._clients.get(node_id)
        if client is None:
            client = GrpcClient(f"{row.host}:{row.grpc_port}", self._token)
            self._clients[node_id] = client
        return client
