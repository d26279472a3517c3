"""What the cluster consists of, its nodes and their resources, and what it remembers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec

from nbray.common.resources import add, from_units
from nbray.core_worker.current import joined_core
from nbray.wire.records import NodeInfo


def node_rows(timeout: float | None = None) -> list[NodeInfo]:
    """What the GCS knows of the nodes.

    Raises:
        GetTimeoutError: it did not answer in ``timeout`` seconds.
    """
    from nbray.wire.gcs_messages import Empty, Nodes

    body = msgspec.msgpack.encode(Empty())
    reply = joined_core().peers.gcs_call("ListNodes", body, timeout)
    return msgspec.msgpack.decode(reply, type=Nodes).nodes


# Of Ray's rows; these ports and sockets do not exist here.
_OTHER_KEYS: dict[str, Any] = {
    "ObjectStoreSocketName": "", "RayletSocketName": "", "MetricsExportPort": 0,
    "MetricsAgentPort": 0, "DashboardAgentListenPort": 0, "RuntimeEnvAgentPort": 0,
}  # fmt: skip


def nodes() -> list[dict[str, Any]]:
    """A dict for every node, with Ray's keys.

    Returns:
        Dicts with the id (hexadecimal), "Alive", addresses, "Resources" (amounts by name, memory in
        bytes) and "Labels".

    Examples:
        >>> [node["Alive"] for node in nbray.nodes()]
        [True]
    """
    return described(node_rows())


def described(rows: list[NodeInfo]) -> list[dict[str, Any]]:
    """A dict for each of these nodes, with Ray's keys."""
    return [
        {
            "NodeID": row.node_id.hex(),
            "Alive": row.alive,
            "alive": row.alive,
            "NodeName": row.host,
            "NodeManagerAddress": row.host,
            "NodeManagerHostname": row.hostname,
            "NodeManagerPort": row.frame_port,
            "ObjectManagerPort": row.frame_port,
            "DeathReason": 0 if row.alive else 2 if row.death_cause else 1,
            "DeathReasonMessage": row.death_cause,
            **_OTHER_KEYS,
            "Resources": _resources(row) if row.alive else {},
            "Stats": row.stats,
            "Labels": row.labels,
        }
        for row in rows
    ]


def _resources(row: NodeInfo) -> dict[str, float]:
    """All of a node, with its object store, which is no resource that can be asked for."""
    return {**from_units(row.total), "object_store_memory": row.stats.get("store_total", 0.0)}


def cluster_resources() -> dict[str, float]:
    """All resources of the nodes that are alive.

    Returns:
        Amounts by name; "memory" and "object_store_memory" in bytes.

    Examples:
        >>> nbray.cluster_resources()["CPU"]
        2.0
    """
    return total_of(node_rows())


def total_of(rows: list[NodeInfo]) -> dict[str, float]:
    """All resources of those of these nodes that are alive."""
    alive = [row for row in rows if row.alive]
    total: dict[str, int] = {}
    for row in alive:
        add(total, row.total)
    store = sum(row.stats.get("store_total", 0.0) for row in alive)
    return _without_zeros({**from_units(total), "object_store_memory": store})


def _without_zeros(amounts: dict[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in amounts.items() if amount > 0}


def available_resources() -> dict[str, float]:
    """The resources that are free now, as last reported by the raylets.

    One of which nothing is free is left out, as in Ray.

    Returns:
        Amounts by name, as in `cluster_resources`.

    Examples:
        >>> nbray.available_resources()["object_store_memory"] > 0
        True
    """
    return free_of(node_rows())


def free_of(rows: list[NodeInfo]) -> dict[str, float]:
    """Those that are free on these nodes."""
    alive = [row for row in rows if row.alive]
    free: dict[str, int] = {}
    for row in alive:
        add(free, row.available)
    store = sum(
        row.stats.get("store_total", 0.0) - row.stats.get("store_used", 0.0) for row in alive
    )
    return _without_zeros({**from_units(free), "object_store_memory": store})


def timeline(filename: str | Path | None = None) -> list[dict[str, Any]] | None:
    """The tasks and actor calls that the cluster remembers, as a Chrome trace.

    At high rates not every short task is remembered; see `nbray.core_worker.tell.task_events`.

    Args:
        filename: write it there as JSON, for chrome://tracing or ui.perfetto.dev.

    Returns:
        The events, if there is no ``filename``.

    Examples:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "trace.json")
        ...     nbray.timeline(file)
        ...     file.read_text()[0]
        '['
    """
    from nbray.state import queries  # rows of all kinds: not at every start
    from nbray.state.trace import MOST_TASKS, chrome_trace

    query = queries.tasks(MOST_TASKS)
    found = query.read(joined_core().peers.gcs_call(query.method, query.body))
    events = chrome_trace(found.rows, time.time() * 1000)
    if filename is None:
        return events
    Path(filename).write_text(json.dumps(events))
    return None
