"""The node table: who reports, who is told of it, and who is dead.

Raylets report their rows, at a pace that the GCS sets; they are told of each other by a call that
waits for news (`watch`). Rows of the dead are kept for the record, the last thousand.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import structs

from nbray.common.addresses import joined
from nbray.common.background import Background
from nbray.common.config import Config
from nbray.gcs.nodes.health import NodeHealth
from nbray.gcs.nodes.pace import report_period_s, soonest_report_s, wave_s
from nbray.gcs.nodes.view import News, NodeView, Seen
from nbray.gcs.storage import Store, Table
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient
from nbray.wire.records import BundleInfo, NodeInfo

logger = logging.getLogger(__name__)

_WATCH_S = 20.0
_DEAD_ROWS_KEPT = 1000
_DEAD_IDS_KEPT = 100_000
_ALL_KNOW_S = 1.0
_ALL_KNOW_NODES = 64
_encode = msgspec.msgpack.Encoder().encode


class NodeTable:
    """The rows of all nodes.

    Attributes:
        on_room: called when some node has other resources free than before.
        on_back: called with a node that was known from the store, at its first report.
        on_gone: called with a node that left or died, and why.
        on_failed: called with a node that was declared dead.
    """

    def __init__(self, token: bytes, config: Config, store: Store) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.on_back: Callable[[NodeInfo], Awaitable[None]]
        self.on_gone: Callable[[bytes, str], Awaitable[None]]
        self.on_failed: Callable[[NodeInfo, str], None] = lambda _node, _cause: None
        self.health = NodeHealth(config, self.client, self._died)
        self._token = token
        self._config = config
        self._store = store
        self._table = Table(store, "nodes", NodeInfo)
        self._rows = self._table.all()
        self._alive = {node_id: row for node_id, row in self._rows.items() if row.alive}
        self._unreconciled = set(self._alive)
        self._dead = deque(node_id for node_id in self._rows if node_id not in self._alive)
        self._dead_ids = dict.fromkeys(self._dead)
        self._clients: dict[bytes, GrpcClient] = {}
        self._background = Background()
        self._epoch = os.urandom(8)
        self._view = NodeView()
        self._told: dict[bytes, int] = {}
        self._somebody_told = asyncio.Event()
        self._news = asyncio.Event()
        self._answers: dict[Seen | None, msgspec.Raw] = {}
        self._waves = 0
        self._served: dict[bytes, int] = {}
        self._wave_at = 0.0
        self._wave: asyncio.TimerHandle | None = None

    # --- rows --------------------

    def all(self) -> list[NodeInfo]:
        """All rows, with those of the dead."""
        return list(self._rows.values())

    def ready(self) -> list[NodeInfo]:
        """The rows that are alive, and have reported to this process."""
        unreconciled = self._unreconciled
        return [row for node_id, row in self._alive.items() if node_id not in unreconciled]

    def get(self, node_id: bytes) -> NodeInfo | None:
        """One row."""
        return self._rows.get(node_id)

    def client(self, node: NodeInfo) -> GrpcClient:
        """The gRPC client of a raylet."""
        client = self._clients.get(node.node_id)
        if client is None:
            client = GrpcClient(joined(node.host, node.grpc_port), self._token)
            if node.alive:
                self._clients[node.node_id] = client
        return client

    async def resume(self) -> None:
        """Go on with what the store told of."""
        for node_id, row in list(self._rows.items()):
            if row.alive:
                self.health.watch(row, self._period_s())
                self._view.member_changed(node_id)
            else:
                await self.on_gone(node_id, "its node died")

    async def list_all(self, _request: g.Empty) -> g.Nodes:
        """All rows, with how long each node has been silent."""
        for node_id, row in self._alive.items():
            row.silent_s = self.health.silence_s(node_id)
        return g.Nodes(self.all())

    # --- reports --------------------

    async def report(self, request: g.Report) -> g.Reported:
        """A raylet's row; the first one registers it."""
        node, node_id = request.node, request.node.node_id
        known = self._alive.get(node_id)
        if known is None and node_id in self._dead_ids:
            return self._reported(rejected=True)
        if known is None:
            logger.info("Node %s joined from %s.", node_id.hex()[:8], node.host)
        if not node.alive:
            await self._leaves(node)
            return self._reported()
        node.started = time.time() if known is None else known.started
        self._rows[node_id] = self._alive[node_id] = node
        if known is None:
            self._table.put(node_id, structs.replace(node, stats={}))
            self._view.member_changed(node_id)
            self._tell()
        elif _room(known) != _room(node):
            self._view.room_changed(node_id)
            self._tell()
        if known is None or known.available != node.available:
            self.on_room()
        self.health.heard(node, self._period_s())
        if node_id in self._unreconciled:
            self._unreconciled.discard(node_id)
            await self.on_back(node)
        if known is None:
            # When its starter hears that the node is there, every raylet knows it.
            await self._all_know(node_id)
            await self._store.durable()
        return self._reported()

    def _reported(self, rejected: bool = False) -> g.Reported:
        return g.Reported(self._period_s(), soonest_report_s(len(self._alive)), rejected)

    def _period_s(self) -> float:
        return report_period_s(len(self._alive), self._config.raylet_report_period_s)

    # --- ends --------------------

    async def _leaves(self, node: NodeInfo) -> None:
        known = self._rows.get(node.node_id)
        if known is not None:
            node.started = known.started
        self._end(node)
        await self.on_gone(node.node_id, "its node has left the cluster")
        await self._store.durable()

    async def _died(self, node_id: bytes, cause: str) -> None:
        """A node is dead, and stays so: its raylet, if it comes back, is told to leave."""
        node = self._alive.get(node_id)
        if node is None:
            return
        logger.warning("Node %s is dead: %s.", node_id.hex()[:8], cause)
        node.alive = False
        node.death_cause = cause
        self._end(node)
        self.on_failed(node, cause)
        await self.on_gone(node_id, "its node died")

    def _end(self, node: NodeInfo) -> None:
        node_id, node.ended = node.node_id, time.time()
        self._rows[node_id] = node
        self._alive.pop(node_id, None)
        self._unreconciled.discard(node_id)
        self._told.pop(node_id, None)
        self._served.pop(node_id, None)
        self.health.forget(node_id)
        client = self._clients.pop(node_id, None)
        if client is not None:
            self._background.start(client.close())
        self._table.put(node_id, structs.replace(node, stats={}))
        self._view.room_gone(node_id)
        self._view.member_changed(node_id)
        self._tell()
        self._dead.append(node_id)
        self._dead_ids[node_id] = None
        if len(self._dead) > _DEAD_ROWS_KEPT:
            oldest = self._dead.popleft()
            self._rows.pop(oldest, None)
            self._table.delete(oldest)
            self._view.forget(oldest)
        if len(self._dead_ids) > _DEAD_IDS_KEPT:
            del self._dead_ids[next(iter(self._dead_ids))]

    # --- who is told --------------------

    async def watch(self, request: g.WatchNodes) -> g.NodeChanges | msgspec.Raw:
        """What a raylet has not seen; it waits for that, at most 20 s.

        It is answered once a wave, so that the news of a busy cluster come together.
        """
        node_id, seen = request.node_id, None
        if request.epoch == self._epoch:
            seen = Seen(request.members, request.rooms)
            if node_id in self._alive:
                self._told[node_id] = request.members
                self._somebody_told.set()
        until = asyncio.get_running_loop().time() + _WATCH_S
        while True:
            if seen is None or self._served.get(node_id) != self._waves:
                answer = self._answers.get(seen) or self._answer(seen)
                if answer is not None:
                    if node_id in self._alive:
                        self._served[node_id] = self._waves
                    return answer
            elif seen != self._view.seen:
                self._tell()
            news = self._news
            try:
                async with asyncio.timeout_at(until):
                    await news.wait()
            except TimeoutError:
                at = self._view.seen if seen is None else seen
                return g.NodeChanges(self._epoch, at.members, at.rooms)

    def _answer(self, seen: Seen | None) -> msgspec.Raw | None:
        """What raylets are told who have seen the same; encoded once for all of them."""
        news = self._view.news(seen, self._alive)
        if news is None:
            return None
        answer = self._answers[seen] = msgspec.Raw(_encode(self._changes(news)))
        return answer

    def _changes(self, news: News) -> g.NodeChanges:
        return g.NodeChanges(
            self._epoch, news.seen.members, news.seen.rooms,
            [structs.replace(self._rows[n], stats={}, silent_s=0.0) for n in news.members],
            [g.NodeRoom(n, *_room(self._rows[n])) for n in news.rooms],
            news.complete,
        )  # fmt: skip

    def _tell(self) -> None:
        """Something changed: raylets that wait are told, in a large cluster not at once."""
        if self._wave is None:
            now = time.monotonic()
            later = max(0.0, self._wave_at + wave_s(len(self._alive)) - now)
            self._wave = asyncio.get_running_loop().call_later(later, self._wake)

    def _wake(self) -> None:
        self._wave = None
        self._wave_at = time.monotonic()
        self._waves += 1
        self._answers.clear()
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _all_know(self, but: bytes) -> None:
        """Wait until all raylets have heard of the present members; in a small cluster.

        One that has never asked is told of all when it does.
        """
        wanted = self._view.seen.members
        if len(self._alive) > _ALL_KNOW_NODES:
            return
        try:
            async with asyncio.timeout(_ALL_KNOW_S):
                while any(seen < wanted for n, seen in self._told.items() if n != but):
                    self._somebody_told.clear()
                    await self._somebody_told.wait()
        except TimeoutError:
            logger.info("Not every raylet has heard of node %s yet.", but.hex()[:8])


def _room(row: NodeInfo) -> tuple[dict[str, int], dict[str, int], list[BundleInfo]]:
    return row.available, row.returning, row.bundles
