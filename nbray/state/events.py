"""What happened to the cluster, as Ray's events: ``list_cluster_events()``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nbray.state.lists import list_failures
from nbray.state.rows import FailureState, Row
from nbray.state.selecting import DEFAULT_LIMIT, Filter, select

_SOURCES = {"worker": "RAYLET", "actor": "GCS", "node": "GCS"}


@dataclass
class ClusterEventState(Row):
    """A worker, actor or node that ended although nobody meant it to.

    Examples:
        >>> from nbray.util.state import ClusterEventState
        >>> "message" in ClusterEventState.columns()
        True
    """

    severity: str
    time: str
    source_type: str
    message: str
    event_id: str
    custom_fields: dict[str, Any] | None = field(default=None, metadata={"detail": True})


def list_cluster_events(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[ClusterEventState]:  # fmt: skip
    """List what happened to the cluster, the newest events, oldest first.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("source_type", "=", "RAYLET")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: taken for Ray's sake; what is missing always raises.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows.

    Raises:
        StateApiException: a filter or the limit is impossible, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import list_cluster_events
        >>> {event.severity for event in list_cluster_events()} <= {"ERROR"}
        True
    """
    rows = [_event(number, row) for number, row in enumerate(list_failures(address, timeout))]
    return select(
        ClusterEventState, rows, filters, limit, detail, newest=True, explain=_explain
    )  # fmt: skip


def _event(number: int, row: FailureState) -> ClusterEventState:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.time_ms / 1000))
    known = {"kind": row.kind, "id": row.id, "node_id": row.node_id, "name": row.name}
    message = f"{row.kind} {row.name}".rstrip() + f": {row.cause}"
    return ClusterEventState(
        "ERROR", when, _SOURCES.get(row.kind, "GCS"), message, f"{row.time_ms}-{number}", known
    )
