"""``ray._private.state``: what the cluster has, and where."""

from __future__ import annotations

from nbray.core_worker.current import joined_core
from nbray.driver.cluster import available_resources, cluster_resources, nodes, timeline
from nbray.state.lists import list_nodes

__all__ = [
    "available_resources",
    "available_resources_per_node",
    "cluster_resources",
    "current_node_id",
    "node_ids",
    "nodes",
    "timeline",
    "total_resources_per_node",
]


def node_ids() -> list[str]:
    """The resources ``node:IP`` of the living nodes, by which they can be asked for."""
    return [
        name for row in nodes() if row["Alive"] for name in row["Resources"]
        if name.startswith("node:") and name != "node:__internal_head__"
    ]  # fmt: skip


def current_node_id() -> str:
    """The resource ``node:IP`` of this node."""
    return f"node:{joined_core().address.host}"


def total_resources_per_node() -> dict[str, dict[str, float]]:
    """The resources of each living node, by its id."""
    return {row["NodeID"]: dict(row["Resources"]) for row in nodes() if row["Alive"]}


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """What each living node has free, by its id."""
    return {
        row.node_id: dict(row.resources_available)
        for row in list_nodes(limit=10_000) if row.state == "ALIVE"
    }  # fmt: skip
