"""Cells that run once on every node, or once in every worker (``%%remote --targets nodes``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nbray
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..worker.apart import Barrier, run_apart
from .run import RemoteRun
from .sending import Wanted
from .target import Order, Submitted
from .task import RUN_CELL

BARRIER = nbray.remote(num_cpus=0)(Barrier)
RUN_APART = nbray.remote(run_apart)


@dataclass(frozen=True)
class OnNodes:
    """Once on every node that is alive."""

    wanted: Wanted

    def submit(self, order: Order) -> Submitted:
        """See `Target`."""
        places = [(node["NodeID"], f"node {node['NodeID'][:8]}") for node in _nodes()]
        return _submit(order, RUN_CELL, (), places)


@dataclass(frozen=True)
class OnWorkers:
    """Once in as many workers of every node as it has CPUs, at the same time.

    Each begins when all are there.
    """

    wanted: Wanted

    def submit(self, order: Order) -> Submitted:
        """See `Target`."""
        places = [
            (node["NodeID"], f"worker {number} of node {node['NodeID'][:8]}")
            for node in _nodes()
            for number in range(1, int(node["Resources"].get("CPU", 0)) + 1)
        ]
        return _submit(order, RUN_APART, (BARRIER.remote(len(places)),), places)


def _nodes() -> Iterator[dict[str, Any]]:
    return (node for node in nbray.nodes() if node["Alive"])


def _submit(
    order: Order,
    function: nbray.RemoteFunction,
    first: Sequence[Any],
    places: Sequence[tuple[str, str]],
) -> Submitted:
    made = []
    for node_id, title in places:
        options = {
            "name": f"cell {order.ready.label} on {title}",
            **order.options,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        made.append(order.call(function, options, first))
    return Submitted(
        order.ready, order.run(RemoteRun, made), [refs[1:] for refs in made],
        several=True, titles=[title for _, title in places],
    )  # fmt: skip
