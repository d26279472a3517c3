"""Runtime environments: which are in use, and by how much: ``list_runtime_envs()``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nbray.state import queries as q
from nbray.state.asking import ask
from nbray.state.rows import Row
from nbray.state.selecting import DEFAULT_LIMIT, Filter, select


@dataclass
class RuntimeEnvState(Row):
    """An environment that actors or submitted jobs run in, or ran in lately.

    Examples:
        >>> from nbray.util.state import RuntimeEnvState
        >>> "ref_cnt" in RuntimeEnvState.columns()
        True
    """

    runtime_env: dict[str, Any]
    success: bool | None
    node_id: str | None
    ref_cnt: int
    creation_time_ms: float | None = field(default=None, metadata={"detail": True})
    error: str | None = field(default=None, metadata={"detail": True})


def list_runtime_envs(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[RuntimeEnvState]:  # fmt: skip
    """List the runtime environments of actors, and what setting them up came to.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("success", "=", "False")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: taken for Ray's sake; what is missing always raises.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows, those with the most actors first.

    Raises:
        StateApiException: a filter or the limit is impossible, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import list_runtime_envs
        >>> [row.runtime_env for row in list_runtime_envs()]
        []
    """
    rows: dict[tuple[str, str | None], RuntimeEnvState] = {}
    for actor in ask(q.ACTORS, address, timeout):
        text = actor.serialized_runtime_env or "{}"
        if text == "{}":
            continue
        failed = "runtime_env_failed_context" in (actor.death_cause or ())
        success = False if failed else None if actor.node_id is None else True
        row = rows.setdefault(
            (text, actor.node_id),
            RuntimeEnvState(json.loads(text), success, actor.node_id, 0, actor.start_time_ms),
        )
        row.ref_cnt += actor.state != "DEAD"
        if failed:
            row.success, row.error = False, actor.death_text
    found = sorted(rows.values(), key=lambda row: -row.ref_cnt)
    return select(RuntimeEnvState, found, filters, limit, detail, explain=_explain)
