"""Asks the cluster once a second for what the graphs need, also while nobody looks.

A page that is opened later shows the last minutes, and days. What tables show is asked by the pages
themselves, while somebody looks (`parts/cluster.py`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from nbray.state.client import RpcError
from nbray.state.rows import NodeState, TaskTotals

from .history import CLUSTER, History, NodeHistories
from .parts.cluster import Cluster

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
_NODES_EVERY = 5
_ANNOUNCE_EVERY = 10
_GCS_SILENCE_S = 60.0
COUNTERS = {
    "received": "net_received", "sent": "net_sent", "read": "disk_read", "written": "disk_written",
}  # fmt: skip
"""Columns that are bytes a second, and the statistics of nodes that grow by them."""
SUMS = {
    "memory_used": "memory_used", "memory_total": "memory_total", "store_used": "store_used",
    "store_total": "store_total", "spilled": "store_spilled", "waiting": "pending_leases",
    "workers": "workers", "disk_used": "disk_used", "disk_total": "disk_total",
    "gpu_memory": "gpu_memory_used", "gpu_memory_total": "gpu_memory_total",
}  # fmt: skip
"""Columns that are summed over nodes, and the statistics that they are made of."""
MEANS = {"cpu": "cpu_percent", "gpu": "gpu_percent"}
"""Columns that are averages over the nodes that tell of them."""
NODE_COLUMNS = (*MEANS, *SUMS, *COUNTERS)
COLUMNS = ("finished", "failed", "nodes", *NODE_COLUMNS)


class Watcher:
    """One per process.

    Args:
        cluster: who is asked.
        url: where the dashboard is, and ``name`` that of the cluster: the GCS is told.
        folder: where the series are kept.

    Attributes:
        url: where the dashboard is.
        client: the connection to the GCS; ``cluster`` the name.
        error: why the GCS does not answer; empty while it does.
    """

    def __init__(self, cluster: Cluster, url: str, name: str, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.history = History(folder / "cluster.series", COLUMNS, CLUSTER)
        self.nodes = NodeHistories(folder, NODE_COLUMNS)
        self.error = ""
        self.client = cluster.client
        self.cluster = name
        self._asked = cluster
        self.url = url
        self._before: tuple[float, TaskTotals] | None = None
        self._rates: dict[str, _Rates] = {}

    async def run(self) -> None:
        """Watch until the GCS has been silent for a minute."""
        heard = time.monotonic()
        turn = 0
        while time.monotonic() - heard < _GCS_SILENCE_S:
            began = time.monotonic()
            try:
                if turn % _ANNOUNCE_EVERY == 0:
                    await self.client.set_dashboard(self.url, self.cluster)
                nodes, totals = await asyncio.gather(self._asked.nodes(), self._asked.totals())
                self.add(time.time(), nodes, totals, turn % _NODES_EVERY == 0)
                self.error = ""
                heard = time.monotonic()
                turn += 1
            except RpcError as error:
                turn = 0
                if not self.error:
                    logger.warning("The GCS does not answer: %s", error)
                self.error = str(error)
            await asyncio.sleep(max(0.0, began + PERIOD_S - time.monotonic()))
        logger.error("The GCS was silent for %.0f s; the dashboard leaves.", _GCS_SILENCE_S)

    def add(
        self, now: float, nodes: list[NodeState], totals: TaskTotals, with_nodes: bool = True
    ) -> None:
        """A moment of the cluster; of each node only ``with_nodes``."""
        then, before = self._before or (now - PERIOD_S, totals)
        passed = max(1e-3, now - then)
        self._before = (now, totals)
        alive = [node for node in nodes if node.state == "ALIVE"]
        rows = [self._of_node(node, now) for node in alive]
        if with_nodes:
            self.nodes.keep({node.node_id for node in alive})
            for node, row in zip(alive, rows, strict=True):
                history = self.nodes.of(node.node_id, make=True)
                if history is not None:
                    history.add(now, [row[name] for name in NODE_COLUMNS])
            self._rates = {
                node.node_id: self._rates[node.node_id]
                for node in alive
                if node.node_id in self._rates
            }
        summed = {name: _sum(row[name] for row in rows) for name in NODE_COLUMNS}
        for name in MEANS:
            summed[name] /= max(1, sum(not math.isnan(row[name]) for row in rows))
        self.history.add(
            now,
            [
                max(0, totals.finished - before.finished) / passed,
                max(0, totals.failed - before.failed) / passed,
                float(len(alive)),
                *(summed[name] for name in NODE_COLUMNS),
            ],
        )

    def _of_node(self, node: NodeState, now: float) -> dict[str, float]:
        stats = node.stats
        rates = self._rates.setdefault(node.node_id, _Rates())
        return {
            **{name: stats.get(key, math.nan) for name, key in (MEANS | SUMS).items()},
            **rates.of(now, {name: stats.get(key) for name, key in COUNTERS.items()}),
        }


class _Rates:
    """How fast counters grow, over the time between changes: nodes report at their own pace."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}
        self._rate: dict[str, float] = {}

    def of(self, now: float, counters: Mapping[str, float | None]) -> dict[str, float]:
        for name, value in counters.items():
            if value is None:
                continue
            when, last = self._last.get(name, (now, value))
            if name not in self._last or value != last or now - when > 2 * _NODES_EVERY:
                if now > when:
                    self._rate[name] = max(0.0, value - last) / (now - when)
                self._last[name] = (now, value)
        return {name: self._rate.get(name, math.nan) for name in counters}


def _sum(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) if known else math.nan
