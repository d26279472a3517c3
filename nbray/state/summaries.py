"""What a cluster has, counted: ``summarize_tasks()`` and kin."""

from __future__ import annotations

from collections import Counter
from typing import Any

from nbray.state import queries as q
from nbray.state.asking import ask, find_objects, find_tasks
from nbray.state.rows import ObjectState
from nbray.state.selecting import MAX_LIMIT


def summarize_tasks(
    address: str | None = None,
    timeout: int = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """Count the tasks of each function by their states, exactly.

    The ended are counted since the cluster began, also those that no list remembers.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        raise_on_missing_output: False takes what there is when a node does not answer.
        _explain: has no effect.

    Returns:
        Ray's dict: ``["cluster"]["summary"]`` has the counts by function.

    Raises:
        StateApiException: the cluster, or one of its nodes, did not answer.

    Examples:
        >>> from nbray.util.state import summarize_tasks
        >>> summarize_tasks()["cluster"]["summary_by"]
        'func_name'
    """
    found = find_tasks(address, None, timeout, raise_on_missing_output)
    functions = ask(q.TASK_TOTALS, address, timeout).functions
    states: dict[str, Counter[str]] = {}
    kinds: dict[str, str] = {}
    counted = {*found.unfinished, *(function.name for function in functions)}
    for row in found.rows:  # tasks are counted by their names, not as their actors show themselves
        name = row.name if row.name in counted else row.func_or_class_name
        kinds.setdefault(name, row.type)
        ended = row.state in ("FINISHED", "FAILED")
        if not ended or (row.type == "ACTOR_CREATION_TASK" and name not in counted):
            states.setdefault(name, Counter())[row.state] += 1
    for name, count in found.unfinished.items():
        counts = states.setdefault(name, Counter())
        counts["PENDING_NODE_ASSIGNMENT"] += max(0, count - counts.total())
    for function in functions:
        counts = states.setdefault(function.name, Counter())
        counts["FINISHED"] += function.finished
        counts["FAILED"] += function.failed + function.cancelled  # one state in Ray
    summary = {
        name: {
            "func_or_class_name": name,
            "type": kinds.get(name, "NORMAL_TASK"),
            "state_counts": {state: count for state, count in counts.items() if count},
        }
        for name, counts in states.items()
    }
    totals: Counter[str] = Counter()
    for name, counts in states.items():
        totals[kinds.get(name, "NORMAL_TASK")] += counts.total()
    return {
        "cluster": {
            "summary": summary,
            "total_tasks": totals["NORMAL_TASK"],
            "total_actor_tasks": totals["ACTOR_TASK"],
            "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
            "summary_by": "func_name",
        }
    }


def summarize_objects(
    address: str | None = None,
    timeout: int = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """Count the objects by where they were made, with their sizes and what keeps them.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        raise_on_missing_output: False takes what there is when a node does not answer.
        _explain: has no effect.

    Returns:
        Ray's dict: ``["cluster"]["total_objects"]``, sizes in MiB.

    Raises:
        StateApiException: the cluster, or one of its nodes, did not answer.

    Examples:
        >>> from nbray.util.state import summarize_objects
        >>> summarize_objects()["cluster"]["total_objects"] >= 0
        True
    """
    found = find_objects(address, MAX_LIMIT, timeout, raise_on_missing_output)
    sites: dict[str, list[ObjectState]] = {}
    for row in found.rows:
        sites.setdefault(row.call_site or "disabled", []).append(row)
    summary = {
        site: {
            "total_objects": len(rows),
            "total_size_mb": sum(max(0, row.object_size) for row in rows) / 1024**2,
            "total_num_workers": len({row.worker_id for row in rows}),
            "total_num_nodes": len({row.node_id for row in rows}),
            "task_state_counts": dict(Counter(row.task_status for row in rows)),
            "ref_type_counts": dict(Counter(row.reference_type for row in rows)),
        }
        for site, rows in sites.items()
    }
    return {
        "cluster": {
            "summary": summary,
            "total_objects": sum(holder.owned for holder in found.holders),
            "total_size_mb": sum(holder.owned_bytes for holder in found.holders) / 1024**2,
            "callsite_enabled": any(site != "disabled" for site in sites),
            "summary_by": "callsite",
        }
    }


def summarize_actors(
    address: str | None = None,
    timeout: int = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """Count the actors of each class by their states.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        raise_on_missing_output: taken for Ray's sake; what is missing always raises.
        _explain: has no effect.

    Returns:
        Ray's dict: ``["cluster"]["summary"]`` has the counts by class.

    Raises:
        StateApiException: the cluster did not answer.

    Examples:
        >>> from nbray.util.state import summarize_actors
        >>> summarize_actors()["cluster"]["summary_by"]
        'class'
    """
    actors = ask(q.ACTORS, address, timeout)
    classes: dict[str, Counter[str]] = {}
    for actor in actors:
        classes.setdefault(actor.class_name, Counter())[actor.state] += 1
    summary = {
        name: {"class_name": name, "state_counts": dict(counts)} for name, counts in classes.items()
    }
    return {
        "cluster": {"summary": summary, "total_actors": len(actors), "summary_by": "class"},
    }
