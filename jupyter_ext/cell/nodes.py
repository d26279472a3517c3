"""Cells that run once on every node, or once in every worker (``%%remote --targets nodes``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nbray.notebook import RemoteFunction, engine

from ..worker.apart import Barrier, run_apart
from .run import RemoteRun
from .sending import Wanted
from .target import Order, Submitted
from .task import cell_runner


@dataclass(frozen=True)
class OnNodes:
    """Once on every node that is alive."""

    wanted: Wanted

    def submit(self, order: Order) -> Submitted:
        """See `Target`."""
        places = [(node["NodeID"], f"node {node['NodeID'][:8]}") for node in _nodes()]
        return _submit(order, cell_runner(), (), places)


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
        barrier = engine().api.remote(num_cpus=0)(Barrier).remote(len(places))
        return _submit(order, engine().api.remote(run_apart), (barrier,), places)


def _nodes() -> Iterator[dict[str, Any]]:
    return (node for node in engine().api.nodes() if node["Alive"])


def _submit(
    order: Order,
    function: RemoteFunction,
    first: Sequence[Any],
    places: Sequence[tuple[str, str]],
) -> Submitted:
    made = []
    for node_id, title in places:
        options = {
            "name": f"cell {order.ready.label} on {title}",
            **order.options,
            "scheduling_strategy": engine().on_node(node_id),
        }
        made.append(order.call(function, options, first))
    return Submitted(
        order.ready, order.run(RemoteRun, made), [refs[1:] for refs in made],
        several=True, titles=[title for _, title in places],
    )  # fmt: skip
