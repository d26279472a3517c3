"""Asks the cluster, keeps what it said last, and a time series of its own.

Once a second for the graphs, also while nobody looks: the page that is opened later shows the
last minutes. The tables are asked for only while somebody looks. Everything is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field

from nbray.state import queries as q
from nbray.state.client import RpcError, StateClient
from nbray.state.rows import (
    ActorState,
    DemandState,
    FailureState,
    JobState,
    NodeState,
    TaskTotals,
    WorkerState,
)

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
POINTS_KEPT = 900
_ANNOUNCE_EVERY = 10
_GCS_SILENCE_S = 60.0


@dataclass(frozen=True)
class Point:
    """One moment of the graphs: tasks per second, and use in percent."""

    time: float
    finished: float
    failed: float
    cpu: float
    memory: float
    store: float


@dataclass
class Snapshot:
    """What the cluster said last; ``number`` grows with every answer."""

    number: int = 0
    nodes: list[NodeState] = field(default_factory=list)
    totals: TaskTotals = field(default_factory=lambda: TaskTotals(0, 0, 0, [], {}))
    workers: list[WorkerState] = field(default_factory=list)
    actors: list[ActorState] = field(default_factory=list)
    jobs: list[JobState] = field(default_factory=list)
    demand: list[DemandState] = field(default_factory=list)
    failures: list[FailureState] = field(default_factory=list)
    error: str = ""


class Watcher:
    """One per process, shared by all pages."""

    def __init__(self, client: StateClient, url: str, cluster: str) -> None:
        self.client = client
        self.snapshot = Snapshot()
        self.points: deque[Point] = deque(maxlen=POINTS_KEPT)
        self._url = url
        self.cluster = cluster
        self._viewers = 0
        self._wanted = asyncio.Event()
        self._before: tuple[float, TaskTotals] | None = None

    def joined(self) -> None:
        """A page was opened: the tables are asked for at once."""
        self._viewers += 1
        self._wanted.set()

    def left(self) -> None:
        """A page was closed."""
        self._viewers -= 1

    async def run(self) -> None:
        """Watch until the GCS has been silent for a minute."""
        heard = time.monotonic()
        turn = 0
        while time.monotonic() - heard < _GCS_SILENCE_S:
            try:
                if turn % _ANNOUNCE_EVERY == 0:
                    await self.client.set_dashboard(self._url, self.cluster)
                await self._look()
                heard = time.monotonic()
                turn += 1
            except RpcError as error:
                turn = 0
                if not self.snapshot.error:
                    logger.warning("The GCS does not answer: %s", error)
                self.snapshot.error = str(error)
                self.snapshot.number += 1
            self._wanted.clear()
            try:
                await asyncio.wait_for(self._wanted.wait(), PERIOD_S)
            except TimeoutError:
                continue
        logger.error("The GCS was silent for %.0f s; the dashboard leaves.", _GCS_SILENCE_S)

    async def _look(self) -> None:
        ask = self.client.ask
        snapshot = self.snapshot
        snapshot.nodes, snapshot.totals = await asyncio.gather(ask(q.NODES), ask(q.TASK_TOTALS))
        self._add_point(time.time(), snapshot.nodes, snapshot.totals)
        if self._viewers:
            (
                (workers, _unreachable), snapshot.actors, snapshot.jobs,
                snapshot.demand, snapshot.failures,
            ) = await asyncio.gather(
                ask(q.WORKERS), ask(q.ACTORS), ask(q.JOBS), ask(q.DEMAND), ask(q.FAILURES)
            )  # fmt: skip
            snapshot.workers = [row for row in workers if row.is_alive]
        snapshot.error = ""
        snapshot.number += 1

    def _add_point(self, now: float, nodes: list[NodeState], totals: TaskTotals) -> None:
        then, before = self._before or (now - PERIOD_S, totals)
        if now - then < PERIOD_S / 2:
            return  # a page was just opened
        self._before = (now, totals)
        alive = [node.stats for node in nodes if node.state == "ALIVE"]
        self.points.append(
            Point(
                now,
                max(0, totals.finished - before.finished) / (now - then),
                max(0, totals.failed - before.failed) / (now - then),
                sum(stats.get("cpu_percent", 0.0) for stats in alive) / max(1, len(alive)),
                _share(alive, "memory"),
                _share(alive, "store"),
            )
        )


def _share(stats: list[dict[str, float]], what: str) -> float:
    """Used of total over all nodes, in percent."""
    used = sum(one.get(f"{what}_used", 0.0) for one in stats)
    return 100 * used / max(1.0, sum(one.get(f"{what}_total", 0.0) for one in stats))
