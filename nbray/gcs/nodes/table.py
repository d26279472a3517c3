"""The node table: who reports, and who has ended.

Raylets report their rows, at a pace that the GCS sets. Rows of those that ended are kept for the
record, the last thousand; of many more it is remembered that they may not come back.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import structs

from nbray.common.addresses import joined
from nbray.common.background import Background
from nbray.common.config import Config
from nbray.common.pids import machine
from nbray.gcs.nodes.health import NodeHealth
from nbray.gcs.nodes.life import NodeLife
from nbray.gcs.nodes.news import NodeNews
from nbray.gcs.nodes.pace import near_report_period_s, report_period_s, soonest_report_s
from nbray.gcs.storage import Store, Table
from nbray.wire import gcs_messages as g
from nbray.wire import scaling_messages as sm
from nbray.wire.grpc_service import GrpcClient, Handler, RpcError
from nbray.wire.records import NodeInfo

logger = logging.getLogger(__name__)

_ENDED_ROWS_KEPT = 1000
_ENDED_IDS_KEPT = 100_000
_DRAIN_S = 5.0


class Listener(Protocol):
    """Is told of nodes."""

    def node_reported(self, report: g.Report) -> None:
        """A row came, perhaps the last one."""

    def room_changed(self) -> None:
        """Some node has other resources free than before."""

    def node_back(self, node: NodeInfo) -> None:
        """A node that was known from the store reports for the first time."""

    async def node_gone(self, node_id: bytes, cause: str) -> None:
        """A node left or died."""

    def grows(self) -> bool:
        """Whether an autoscaler may start nodes."""


class NodeTable:
    """All nodes, and the GCS methods about them.

    ``failed`` is called with a node that was declared dead, and why; ``calls_path`` says by which
    Unix socket the raylet of this machine that has an id is called.
    """

    def __init__(
        self,
        token: bytes,
        config: Config,
        store: Store,
        listener: Listener,
        failed: Callable[[NodeInfo, str], None],
        calls_path: Callable[[str], str],
    ) -> None:
        self.health = NodeHealth(config, self.client, self._died)
        self._token = token
        self._config = config
        self._store = store
        self._listener = listener
        self._failed = failed
        self._calls_path = calls_path
        self._machine = machine()
        self._table = Table(store, "nodes", NodeLife)
        self._nodes = self._table.all()
        self._alive = {node_id: life for node_id, life in self._nodes.items() if life.row.alive}
        self._ended = deque(node_id for node_id in self._nodes if node_id not in self._alive)
        self._ended_ids = dict.fromkeys(self._ended)
        self._clients: dict[bytes, GrpcClient] = {}
        self._background = Background()
        self._news = NodeNews(self._nodes, self._alive)

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "Report": (g.Report, self._report),
            "WatchNodes": (g.WatchNodes, self._news.watch),
            "ListNodes": (g.Empty, self._list),
            "DrainNode": (sm.DrainNode, self._background.wholly(self._drain)),
        }

    # --- rows --------------------

    def all(self) -> list[NodeInfo]:
        """All rows, with those of nodes that have ended."""
        return [life.row for life in self._nodes.values()]

    def ready(self) -> list[NodeInfo]:
        """The rows that are alive, and have reported to this process."""
        return [life.row for life in self._alive.values() if not life.awaited]

    def alive(self) -> list[NodeInfo]:
        """The rows that are alive, as far as is known."""
        return [life.row for life in self._alive.values()]

    def get(self, node_id: bytes) -> NodeInfo | None:
        """One row."""
        life = self._nodes.get(node_id)
        return None if life is None else life.row

    def client(self, node: NodeInfo) -> GrpcClient:
        """The client of a raylet."""
        client = self._clients.get(node.node_id)
        if client is None:
            is_near = node.process is not None and node.process.machine == self._machine
            near = self._calls_path(node.node_id.hex()) if is_near else ""
            client = GrpcClient(joined(node.host, node.grpc_port), self._token, near=near)
            if node.alive:
                self._clients[node.node_id] = client
        return client

    async def resume(self) -> None:
        """Go on with what the store told of."""
        for node_id, life in list(self._nodes.items()):
            if node_id in self._alive:
                life.restart(time.time())
                self.health.watch(life.row, self._period_s())
                self._news.joined(life.row)
            else:
                await self._listener.node_gone(node_id, "its node died")

    async def _list(self, _request: g.Empty) -> g.Nodes:
        """All rows, with how long each node has been silent."""
        for node_id, life in self._alive.items():
            life.row.silent_s = self.health.silence_s(node_id)
        return self._news.listed(self.all())

    # --- reports --------------------

    async def _report(self, request: g.Report) -> g.Reported:
        """A raylet's row; the first one registers it."""
        node, node_id = request.node, request.node.node_id
        known = self._alive.get(node_id)
        if known is None and node_id in self._ended_ids:
            return self._reported(node_id, rejected=True)
        self._listener.node_reported(request)
        if known is None:
            return await self._joined(node)
        if not node.alive:
            known.leave(node, time.time())
            await self._background.whole(self._end(known, "its node has left the cluster"))
            await self._store.durable()
            return self._reported(node_id)
        available = known.row.available
        is_back = known.report(node, time.time())
        self._news.reported(node)
        if available != node.available:
            self._listener.room_changed()
        self.health.heard(node, self._period_s())
        if is_back:
            self._listener.node_back(node)
        return self._reported(node_id)

    async def _joined(self, node: NodeInfo) -> g.Reported:
        """A node is new, or has left before it was known."""
        node_id = node.node_id
        node.started = time.time()
        life = self._nodes[node_id] = self._alive[node_id] = NodeLife(node)
        logger.info("Node %s joined from %s.", node_id.hex()[:8], node.host)
        if not node.alive:
            life.leave(node, node.started)
            await self._background.whole(self._end(life, "its node has left the cluster"))
        else:
            self._keep(life)
            self._news.joined(node)
            self._listener.room_changed()
            self.health.heard(node, self._period_s())
            # When its starter hears that the node is there, every raylet knows it.
            await self._news.all_know(node_id)
        await self._store.durable()
        return self._reported(node_id)

    def _keep(self, life: NodeLife) -> None:
        row = structs.replace(life.row, stats={}, kept_by=[], idle_s=0.0, received_from={})
        self._table.put(row.node_id, NodeLife(row, life.state, life.story))

    def _reported(self, node_id: bytes, rejected: bool = False) -> g.Reported:
        grows, period_s = self._listener.grows(), self._period_s()
        if self.health.sees_end(node_id) and not grows:
            period_s = max(period_s, near_report_period_s(self._config.raylet_report_period_s))
        return g.Reported(period_s, soonest_report_s(len(self._alive)), rejected, grows)

    def _period_s(self) -> float:
        return report_period_s(len(self._alive), self._config.raylet_report_period_s)

    # --- ends --------------------

    async def _drain(self, request: sm.DrainNode) -> sm.Drained:
        """Have a node take nothing new and leave: its raylet decides whether it may now."""
        life = self._alive.get(request.node_id)
        if life is None:
            if request.node_id in self._ended_ids:
                return sm.Drained(True)
            return sm.Drained(False, f"No node has the id {request.node_id.hex()}.")
        if life.row.is_head:
            return sm.Drained(False, "It is the head node, which stays as long as its cluster.")
        try:
            answer = await self.client(life.row).call("Drain", request, sm.Drained, _DRAIN_S)
        except RpcError as error:
            return sm.Drained(False, f"Its raylet did not answer: {error}", silent=True)
        if answer.accepted and self._alive.get(request.node_id) is life:
            life.drain(request.reason, time.time())
            self._keep(life)
            self._news.changed(request.node_id)
            self._listener.room_changed()
            await self._store.durable()
        return answer

    async def _died(self, node_id: bytes, cause: str) -> None:
        """A node is dead, and stays so: its raylet, if it comes back, is told to leave."""
        life = self._alive.get(node_id)
        if life is None:
            return
        logger.warning("Node %s is dead: %s.", node_id.hex()[:8], cause)
        life.die(cause, time.time())
        self._failed(life.row, cause)
        await self._end(life, "its node died")

    async def _end(self, life: NodeLife, cause: str) -> None:
        node_id = life.row.node_id
        del self._alive[node_id]
        self.health.forget(node_id)
        client = self._clients.pop(node_id, None)
        if client is not None:
            self._background.start(client.close())
        self._keep(life)
        self._news.ended(node_id)
        self._ended.append(node_id)
        self._ended_ids[node_id] = None
        if len(self._ended) > _ENDED_ROWS_KEPT:
            oldest = self._ended.popleft()
            self._nodes.pop(oldest, None)
            self._table.delete(oldest)
            self._news.forget(oldest)
        if len(self._ended_ids) > _ENDED_IDS_KEPT:
            del self._ended_ids[next(iter(self._ended_ids))]
        await self._listener.node_gone(node_id, cause)
