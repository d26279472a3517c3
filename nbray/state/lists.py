"""The lists of the state API: ``list_nodes()`` and kin."""

from __future__ import annotations

from collections.abc import Sequence

from nbray.state import queries as q
from nbray.state.asking import ask, find_objects, find_tasks
from nbray.state.rows import (
    ActorState,
    DemandState,
    FailureState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
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
from nbray.state.submissions import ROWS, all_jobs

_FILTERED_THERE = ("job_id", "origin")


def list_nodes(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[NodeState]:  # fmt: skip
    """List the nodes of the cluster, also the dead.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("state", "=", "ALIVE")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: taken for Ray's sake; what is missing always raises.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows, those that live first.

    Raises:
        StateApiException: a filter or the limit is impossible, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import list_nodes
        >>> [(node.state, node.is_head_node) for node in list_nodes()]
        [('ALIVE', True)]
    """
    return select(
        NodeState, ask(q.NODES, address, timeout), filters, limit, detail, explain=_explain
    )


def list_workers(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[WorkerState]:  # fmt: skip
    """List the workers and drivers that run, then the newest that ended.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("is_alive", "=", "True")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: False takes what there is when a node does not answer.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows, those that live first.

    Raises:
        StateApiException: a filter or the limit is impossible, the cluster did not
            answer, or, with ``raise_on_missing_output``, one of its nodes.

    Examples:
        >>> from nbray.util.state import list_workers
        >>> len(list_workers(filters=[("worker_type", "=", "DRIVER")]))
        1
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
    """List the actors that live, and the newest that died.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("state", "=", "ALIVE")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: taken for Ray's sake; what is missing always raises.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows, those that live first.

    Raises:
        StateApiException: a filter or the limit is impossible, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import list_actors
        >>> @nbray.remote
        ... class Clock:
        ...     def tick(self):
        ...         return True
        >>> clock = Clock.options(name="clock").remote()
        >>> nbray.get(clock.tick.remote())
        True
        >>> [row.class_name for row in list_actors(filters=[("name", "=", "clock")])]
        ['Clock']
    """
    return select(
        ActorState, ask(q.ACTORS, address, timeout), filters, limit, detail, explain=_explain
    )


def list_tasks(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[TaskState]:  # fmt: skip
    """List the tasks and calls that have not ended, and the newest that ended, oldest first.

    Of many, the newest ``limit``. At high rates not every short task that finished is remembered:
    docs/watching.md says which. A process that does not answer, as it may hold the interpreter's
    lock, is warned of.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("state", "=", "RUNNING")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: False takes what there is when a node does not answer.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows, one for each attempt.

    Raises:
        StateApiException: a filter or the limit is impossible, the cluster did not
            answer, or, with ``raise_on_missing_output``, one of its nodes.

    Examples:
        >>> import time
        >>> from nbray.util.state import list_tasks
        >>> ref = nbray.remote(num_cpus=0)(time.sleep).options(name="nap").remote(60)
        >>> ready, others = nbray.wait([ref], timeout=0.5)  # by then it runs
        >>> [task.func_or_class_name for task in list_tasks(filters=[("name", "=", "nap")])]
        ['sleep']
        >>> nbray.cancel(ref)
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


def list_objects(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[ObjectState]:  # fmt: skip
    """List the objects that processes own or borrow, a row for each of both, the largest first.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("task_status", "=", "FINISHED")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: False takes what there is when a node does not answer.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows; sizes are in bytes.

    Raises:
        StateApiException: a filter or the limit is impossible, the cluster did not
            answer, or, with ``raise_on_missing_output``, one of its nodes.

    Examples:
        >>> from nbray.util.state import list_objects
        >>> ref = nbray.put(bytes(2_000_000))
        >>> any(row.object_id == ref.hex() for row in list_objects())
        True
    """
    found = find_objects(address, MAX_LIMIT, timeout, raise_on_missing_output)
    return select(ObjectState, found.rows, filters, limit, detail, explain=_explain)


def list_jobs(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[JobState]:  # fmt: skip
    """List the jobs that were submitted, and the programs that joined by themselves.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("status", "=", "RUNNING")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: taken for Ray's sake; what is missing always raises.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows: submitted jobs, the newest first, then drivers. Of those that ended, the newest.

    Raises:
        StateApiException: a filter or the limit is impossible, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import list_jobs
        >>> mine = nbray.get_runtime_context().get_job_id()
        >>> [job.status for job in list_jobs() if job.job_id == mine]
        ['RUNNING']
    """
    return select(JobState, jobs(address, timeout), filters, limit, detail, explain=_explain)


def jobs(address: str | None, timeout: float) -> list[JobState]:
    """All jobs that the cluster knows, with their details."""
    submitted = ask(ROWS, address, timeout)
    waits = any(row.state == "PENDING" for row in submitted)
    actors = ask(q.ACTORS, address, timeout) if waits else []
    drivers = ask(q.JOBS, address, timeout)
    return all_jobs(submitted, drivers, actors)


def list_placement_groups(
    address: str | None = None, filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT, timeout: int = 30, detail: bool = False,
    raise_on_missing_output: bool = True, _explain: bool = False,
) -> list[PlacementGroupState]:  # fmt: skip
    """List the placement groups, and the newest that were removed.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        filters: triples like ``("state", "=", "CREATED")``; "=" and "!=" are known.
        limit: at most so many rows, up to 10,000.
        timeout: seconds.
        detail: fill also the fields that are None otherwise.
        raise_on_missing_output: taken for Ray's sake; what is missing always raises.
        _explain: warn when rows were left out for the limit.

    Returns:
        Rows, those that live first.

    Raises:
        StateApiException: a filter or the limit is impossible, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import list_placement_groups
        >>> group = nbray.util.placement_group([{"CPU": 1}], name="listed")
        >>> group.wait()
        True
        >>> [row.state for row in list_placement_groups(filters=[("name", "=", "listed")])]
        ['CREATED']
        >>> nbray.util.remove_placement_group(group)
    """
    rows = ask(q.PLACEMENT_GROUPS, address, timeout)
    return select(PlacementGroupState, rows, filters, limit, detail, explain=_explain)


def list_demand(address: str | None = None, timeout: int = 30) -> list[DemandState]:
    """List what waits for resources, and why if no node can ever serve it. Not in Ray.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.

    Returns:
        Rows, one for each shape of resources.

    Raises:
        StateApiException: the cluster did not answer.

    Examples:
        >>> from nbray.util.state import list_demand
        >>> [row for row in list_demand() if row.reason]
        []
    """
    return ask(q.DEMAND, address, timeout)


def list_failures(address: str | None = None, timeout: int = 30) -> list[FailureState]:
    """List the newest workers, actors and nodes that ended unmeant, oldest first. Not in Ray.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.

    Returns:
        Rows, with the cause of each.

    Raises:
        StateApiException: the cluster did not answer.

    Examples:
        >>> from nbray.util.state import list_failures
        >>> {row.kind for row in list_failures()} <= {"worker", "actor", "node"}
        True
    """
    return ask(q.FAILURES, address, timeout)
