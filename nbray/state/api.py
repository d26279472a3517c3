"""What the cluster is doing, asked with Ray's names: ``list_nodes()``, ``get_actor(id)`` and kin.

In a driver or worker the questions go through its raylet; elsewhere, or with an address, to the
GCS of the newest cluster of this machine, or of that address.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

from nbray.common.ids import (
    ActorID,
    JobID,
    NodeID,
    ObjectID,
    PlacementGroupID,
    TaskID,
    WorkerID,
)
from nbray.core_worker.current import find_core
from nbray.core_worker.run.output import current_output
from nbray.exceptions import GetTimeoutError
from nbray.state import queries as q
from nbray.state.rows import (
    ActorState,
    DemandState,
    FailureState,
    JobState,
    NodeState,
    ObjectList,
    ObjectState,
    PlacementGroupState,
    TaskList,
    TaskState,
    WorkerState,
)
from nbray.state.selecting import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    Filter,
    StateApiException,
    checked,
    select,
)
from nbray.state.short_ids import full_id, written_id

T = TypeVar("T")
_RAYLET_ANSWERS_S = 5.0
_RAYLETS_SHARE = 0.6  # of the time that there is; the GCS itself has the rest
_FILTERED_THERE = ("job_id", "origin")


def ask(query: q.Query[T], address: str | None, timeout: float) -> T:
    """Ask through this process's raylet, or the GCS itself; see the head of the package.

    A driver whose raylet stands still asks the GCS, within the same ``timeout``.

    Raises:
        StateApiException: the cluster did not answer. ConnectionError: there is none.
    """
    if address == "auto":
        address = None
    deadline = time.monotonic() + timeout
    core = find_core()
    if core is not None and address is None:
        patience = min(timeout * _RAYLETS_SHARE, _RAYLET_ANSWERS_S)
        try:
            return query.read(core.peers.gcs_call(query.method, query.body, patience))
        except GetTimeoutError as error:
            if current_output() is not None:  # a worker
                raise StateApiException(str(error)) from error
    from nbray.state.client import ask_once, find_cluster  # gRPC: never in a worker's template
    from nbray.wire.grpc_service import RpcError

    try:
        if core is not None and address is None:
            found = core.session.read_info()["gcs_address"], core.session.token
        else:
            found = find_cluster(address)
        return ask_once(*found, query, max(0.0, deadline - time.monotonic()))
    except RpcError as error:
        raise StateApiException(str(error)) from error


def list_nodes(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[NodeState]:  # fmt: skip
    """The nodes of the cluster, also the dead.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("state", "=", "ALIVE")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: taken for Ray's sake; what is missing always raises.
        _explain: warn when rows were left out for the limit.

    Raises:
        StateApiException: a filter or the limit is impossible, or the cluster did not answer.
    """
    return select(
        NodeState, ask(q.NODES, address, timeout), filters, limit, detail, explain=_explain
    )


def list_workers(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[WorkerState]:  # fmt: skip
    """The workers and drivers that run, then the newest that ended; arguments as for `list_nodes`.

    With ``raise_on_missing_output``, a node that does not answer is an error.
    """
    rows, unreachable = ask(q.WORKERS, address, timeout)
    if unreachable and raise_on_missing_output:
        raise StateApiException(
            f"{len(unreachable)} node(s) did not list their workers: {', '.join(unreachable)}. "
            "Pass raise_on_missing_output=False to take the others."
        )
    return select(WorkerState, rows, filters, limit, detail, explain=_explain)


def list_actors(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[ActorState]:  # fmt: skip
    """The actors that live, and the newest that died; arguments as for `list_nodes`."""
    return select(
        ActorState, ask(q.ACTORS, address, timeout), filters, limit, detail, explain=_explain
    )


def list_tasks(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[TaskState]:  # fmt: skip
    """The tasks and calls that have not ended, and the newest that ended, oldest first.

    Arguments as for `list_nodes`. Of many, the newest ``limit``. At high rates not every short
    task that finished is remembered; see `nbray.core_worker.tell.task_events`.

    A process that does not answer, as it may hold the interpreter's lock, is warned of.

    Raises:
        StateApiException: also when a node did not answer, with ``raise_on_missing_output``.
    """
    select(TaskState, [], filters, limit, detail)
    filters = checked(TaskState, filters)
    # What the cluster cannot filter is filtered here, out of more rows.
    known_there = all(
        key in _FILTERED_THERE and predicate == "=" and value not in ("", 0, "0")
        for key, predicate, value in filters
    )
    found = find_tasks(
        address, filters, timeout, raise_on_missing_output, limit if known_there else MAX_LIMIT
    )
    return select(TaskState, found.rows, filters, limit, detail, newest=True, explain=_explain)


def find_tasks(
    address: str | None, filters: Sequence[Filter] | None, timeout: float, complete: bool,
    limit: int = MAX_LIMIT,
) -> TaskList:  # fmt: skip
    """Tasks that the cluster knows; what filters say of jobs and origins, it is told.

    At most ``limit`` unfinished ones of each process, and ended ones of each node.

    Raises:
        StateApiException: with ``complete``, a node did not answer.
    """
    exact = {key: str(value) for key, predicate, value in filters or () if predicate == "="}
    job_id = exact.get("job_id", "")
    try:
        query = q.tasks(limit, bytes.fromhex(job_id), int(exact.get("origin", 0)))
    except ValueError as error:
        raise StateApiException(f"A filter's value is impossible: {error}") from error
    found = ask(query, address, timeout)
    _check_complete("tasks", found.missing, complete)
    if found.silent:
        warnings.warn(
            f"{found.silent} process(es) did not answer in time: what runs in them is listed as "
            "SUBMITTED_TO_WORKER, and what they submitted may be missing.",
            stacklevel=3,
        )
    return found


def _check_complete(what: str, missing: list[str], complete: bool) -> None:
    if missing and complete:
        raise StateApiException(
            f"Failed to retrieve all {what} from the cluster: {'; '.join(missing)}. "
            "Pass raise_on_missing_output=False to take the others."
        )


def list_objects(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[ObjectState]:  # fmt: skip
    """The objects that processes own or borrow, a row for each of both, the largest first.

    Arguments and errors as for `list_tasks`.
    """
    found = find_objects(address, MAX_LIMIT, timeout, raise_on_missing_output)
    return select(ObjectState, found.rows, filters, limit, detail, explain=_explain)


def find_objects(address: str | None, limit: int, timeout: float, complete: bool) -> ObjectList:
    """The ``limit`` largest objects of every process, and the processes.

    Raises:
        StateApiException: with ``complete``, a node or process did not answer.
    """
    found = ask(q.objects(limit), address, timeout)
    _check_complete("objects", found.missing, complete)
    return found


def list_jobs(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[JobState]:  # fmt: skip
    """The jobs that run, and the newest that ended; arguments as for `list_nodes`."""
    return select(JobState, ask(q.JOBS, address, timeout), filters, limit, detail, explain=_explain)


def list_placement_groups(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[PlacementGroupState]:  # fmt: skip
    """The placement groups, and the newest that were removed; arguments as for `list_nodes`."""
    rows = ask(q.PLACEMENT_GROUPS, address, timeout)
    return select(PlacementGroupState, rows, filters, limit, detail, explain=_explain)


def get_placement_group(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> PlacementGroupState | None:
    """A placement group by its hexadecimal id; None if there is none."""
    id = written_id(id, PlacementGroupID)
    rows = ask(q.PLACEMENT_GROUPS, address, timeout)
    group_id = full_id(id, (row.placement_group_id for row in rows))
    return next((row for row in rows if row.placement_group_id == group_id), None)


def list_demand(address: str | None = None, timeout: int = 30) -> list[DemandState]:
    """What waits for resources, and why if no node can ever serve it. Not in Ray."""
    return ask(q.DEMAND, address, timeout)


def list_failures(address: str | None = None, timeout: int = 30) -> list[FailureState]:
    """The newest workers, actors and nodes that ended unmeant, oldest first. Not in Ray."""
    return ask(q.FAILURES, address, timeout)


def get_node(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> NodeState | None:
    """The node of that id as hexadecimal text, with details; None when there is none.

    This and its likes take an id also as it begins, as it is shown elsewhere.

    Raises:
        StateApiException: it is no such id, several begin like that, or the cluster is silent.
    """
    id = written_id(id, NodeID)
    rows = ask(q.NODES, address, timeout)
    node_id = full_id(id, (row.node_id for row in rows))
    return next((row for row in rows if row.node_id == node_id), None)


def get_worker(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> WorkerState | None:
    """The worker or driver of that id, with details; None when there is none."""
    id = written_id(id, WorkerID)
    rows, _unreachable = ask(q.WORKERS, address, timeout)
    worker_id = full_id(id, (row.worker_id for row in rows))
    return next((row for row in rows if row.worker_id == worker_id), None)


def get_actor(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> ActorState | None:
    """The actor of that id, with details; None when there is none."""
    id = written_id(id, ActorID)
    rows = ask(q.ACTORS, address, timeout)
    actor_id = full_id(id, (row.actor_id for row in rows))
    return next((row for row in rows if row.actor_id == actor_id), None)


def get_objects(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> list[ObjectState]:
    """What each process knows of the object of that id; none when nobody does."""
    id = written_id(id, ObjectID)
    rows = find_objects(address, MAX_LIMIT, timeout, complete=False).rows
    object_id = full_id(id, (row.object_id for row in rows))
    return [row for row in rows if row.object_id == object_id]


def get_job(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> JobState | None:
    """The job of that id, with details; None when there is none."""
    id = written_id(id, JobID)
    rows = ask(q.JOBS, address, timeout)
    job_id = full_id(id, (row.job_id for row in rows))
    return next((row for row in rows if row.job_id == job_id), None)


def get_task(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> TaskState | list[TaskState] | None:
    """The task of that id, with details: one row, a list if it was tried more often, or None."""
    id = written_id(id, TaskID)
    filters: list[Filter] = [("job_id", "=", id[-8:])] if len(id) == 2 * TaskID.SIZE else []
    found = find_tasks(address, filters, timeout, complete=False)
    task_id = full_id(id, (row.task_id for row in found.rows))
    rows = [row for row in found.rows if row.task_id == task_id]
    return rows if len(rows) > 1 else rows[0] if rows else None


def summarize_tasks(
    address: str | None = None,
    timeout: int = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many tasks of each function are in which state, exactly.

    The ended are counted since the cluster began, also those that no list remembers.
    """
    found = find_tasks(address, None, timeout, raise_on_missing_output)
    functions = ask(q.TASK_TOTALS, address, timeout).functions
    states: dict[str, Counter[str]] = {}
    kinds: dict[str, str] = {}
    counted = {*found.unfinished, *(function.name for function in functions)}
    for row in found.rows:  # tasks are counted by their names, not as their actors show themselves
        name = row.name if row.name in counted else row.func_or_class_name
        kinds.setdefault(name, row.type)
        if row.state not in ("FINISHED", "FAILED"):
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
    """How many objects were made where, how large they are and what keeps them."""
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
    """How many actors of each class are in which state."""
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
