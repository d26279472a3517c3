"""Cells that run once on every node, or once in every worker (``%%remote --targets nodes``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import nbray
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..worker.apart import Barrier, run_apart
from .run import Patience, RemoteRun
from .sending import RUN_CELL, ReadyCell

if TYPE_CHECKING:
    from ..workspace import Workspace

Submitted = tuple[RemoteRun, list[list[nbray.ObjectRef]], list[str]]
"""The run, for each target the refs of what comes back, and what the targets are called."""

SubmitTo = Callable[["Workspace", ReadyCell, Mapping[str, Any], Patience], Submitted]


BARRIER = nbray.remote(num_cpus=0)(Barrier)
RUN_APART = nbray.remote(run_apart)


def submit_to_nodes(
    workspace: Workspace, ready: ReadyCell, options: Mapping[str, Any], patience: Patience
) -> Submitted:
    """Run a prepared cell once on every node that is alive."""
    places = [(node["NodeID"], f"node {node['NodeID'][:8]}") for node in _nodes()]
    return _submit(workspace, ready, options, patience, RUN_CELL, (), places)


def submit_to_workers(
    workspace: Workspace, ready: ReadyCell, options: Mapping[str, Any], patience: Patience
) -> Submitted:
    """Run a prepared cell once in as many workers of every node as it has CPUs, at the same time.

    Each begins when all are there.
    """
    places = [
        (node["NodeID"], f"worker {number} of node {node['NodeID'][:8]}")
        for node in _nodes()
        for number in range(1, int(node["Resources"].get("CPU", 0)) + 1)
    ]
    barrier = BARRIER.remote(len(places))
    return _submit(workspace, ready, options, patience, RUN_APART, (barrier,), places)


def _nodes() -> Iterator[dict[str, Any]]:
    return (node for node in nbray.nodes() if node["Alive"])


def _submit(
    workspace: Workspace,
    ready: ReadyCell,
    options: Mapping[str, Any],
    patience: Patience,
    function: nbray.RemoteFunction,
    first: tuple[Any, ...],
    places: Sequence[tuple[str, str]],
) -> Submitted:
    made = []
    for node_id, title in places:
        task = function.options(
            **{
                "name": f"cell {ready.label} on {title}",
                **options,
                "num_returns": ready.cell.returns,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
            }
        )
        refs = task.remote(*first, ready.cell, workspace.setup.payload(), *ready.arguments)
        made.append(refs if isinstance(refs, list) else [refs])
    run = RemoteRun(
        ready.label, [refs[0] for refs in made], ready.inputs, source=ready.text.source,
        sent_bytes=ready.sent_bytes, patience=patience,
    )  # fmt: skip
    workspace.runs.append(run)
    return run, [refs[1:] for refs in made], [title for _, title in places]
