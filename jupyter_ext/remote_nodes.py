"""A cell that runs once on every node (``%%remote --targets nodes``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import nbray
from nbray.jupyter_ext.cell_sending import RUN_CELL, ReadyCell
from nbray.jupyter_ext.remote_run import Patience, RemoteRun
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from nbray.jupyter_ext.workspace import Workspace


def submit_to_nodes(
    workspace: Workspace, ready: ReadyCell, options: Mapping[str, Any], patience: Patience
) -> tuple[RemoteRun, list[list[nbray.ObjectRef]], list[str]]:
    """Run a prepared cell once on every node that is alive.

    Returns:
        The run, for each node the refs of what comes back, and what the nodes are called.
    """
    made, titles = [], []
    for node in nbray.nodes():
        if not node["Alive"]:
            continue
        title = f"node {node['NodeID'][:8]}"
        task = RUN_CELL.options(
            **{
                "name": f"cell {ready.label} on {title}",
                **options,
                "num_returns": 1 + len(ready.cell.assigns),
                "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            }
        )
        refs = task.remote(ready.cell, workspace.setup.payload(), *ready.arguments)
        made.append(refs if isinstance(refs, list) else [refs])
        titles.append(title)
    run = RemoteRun(
        ready.label, [refs[0] for refs in made], ready.inputs, source=ready.text.source,
        sent_bytes=ready.sent_bytes, patience=patience,
    )  # fmt: skip
    workspace.runs.append(run)
    return run, [refs[1:] for refs in made], titles
