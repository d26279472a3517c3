"""The figures of days: once a second what the cluster does, for the graphs of the dashboard.

They are kept by the GCS, which has them all, so that they are there when somebody opens a dashboard
that did not run before. A disk that is full costs a gap in them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from nbray.common.history import (
    CLUSTER,
    COLUMNS,
    COUNTERS,
    MEANS,
    NODE_COLUMNS,
    SUMS,
    History,
    NodeHistories,
)
from nbray.wire.records import NodeInfo

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
_NODES_EVERY = 5
_NODES_PER_S = 1000


class Series:
    """One per cluster.

    Args:
        folder: where they are kept.
        nodes: the nodes that live.
        ended: how many tasks have finished and failed so far.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self, folder: Path, nodes: Callable[[], Sequence[NodeInfo]],
        ended: Callable[[], tuple[int, int]],
    ) -> None:  # fmt: skip
        folder.mkdir(mode=0o700, exist_ok=True)
        self.history = History(folder / "cluster.series", COLUMNS, CLUSTER)
        self.of_nodes = NodeHistories(folder, NODE_COLUMNS)
        self._nodes = nodes
        self._ended = ended
        self._before: tuple[float, tuple[int, int]] | None = None
        self._rates: dict[bytes, _Rates] = {}

    async def run(self) -> None:
        """Add a moment each second, of very many nodes less often."""
        turn = 0
        failing = False
        while True:
            alive = self._nodes()
            try:
                self.add(time.time(), alive, self._ended(), turn % _NODES_EVERY == 0)
                failing = False
            except OSError as error:
                if not failing:
                    logger.warning("The figures of now are not kept: %s", error)
                failing = True
            turn += 1
            await asyncio.sleep(max(PERIOD_S, len(alive) / _NODES_PER_S))

    def add(
        self, now: float, alive: Sequence[NodeInfo], ended: tuple[int, int], with_nodes: bool = True
    ) -> None:
        """A moment of the cluster; of each node only ``with_nodes``.

        Raises:
            OSError: it cannot be kept.
        """
        then, before = self._before or (now - PERIOD_S, ended)
        passed = max(1e-3, now - then)
        self._before = (now, ended)
        rows = [self._of_node(node, now) for node in alive]
        if with_nodes:
            names = [node.node_id.hex() for node in alive]
            self.of_nodes.keep(set(names))
            for name, row in zip(names, rows, strict=True):
                history = self.of_nodes.of(name, make=True)
                if history is not None:
                    history.add(now, [row[column] for column in NODE_COLUMNS])
            self._rates = {node.node_id: self._rates[node.node_id] for node in alive}
        summed = {column: _sum(row[column] for row in rows) for column in NODE_COLUMNS}
        for column in MEANS:
            summed[column] /= max(1, sum(not math.isnan(row[column]) for row in rows))
        self.history.add(
            now,
            [
                *(max(0, new - old) / passed for new, old in zip(ended, before, strict=True)),
                float(len(alive)),
                *(summed[column] for column in NODE_COLUMNS),
            ],
        )

    def _of_node(self, node: NodeInfo, now: float) -> dict[str, float]:
        stats = node.stats
        rates = self._rates.setdefault(node.node_id, _Rates())
        return {
            **{column: stats.get(key, math.nan) for column, key in (MEANS | SUMS).items()},
            **rates.of(now, {column: stats.get(key) for column, key in COUNTERS.items()}),
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
