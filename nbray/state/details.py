"""One thing of a cluster by its id: ``get_actor(id)`` and kin."""

from __future__ import annotations

from typing import TypeVar

from nbray.common.ids import (
    ActorID,
    JobID,
    NodeID,
    ObjectID,
    PlacementGroupID,
    TaskID,
    WorkerID,
)
from nbray.object_ref import ObjectRef
from nbray.state import queries as q
from nbray.state.asking import ask, find_objects, find_tasks
from nbray.state.lists import jobs
from nbray.state.rows import (
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    TaskState,
    WorkerState,
)
from nbray.state.selecting import MAX_LIMIT, Filter
from nbray.state.short_ids import full_id, written_id

R = TypeVar("R")


def get_placement_group(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> PlacementGroupState | None:
    """Look up a placement group.

    Args:
        id: its id as hexadecimal text, or its first characters, four or more.
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        _explain: has no effect.

    Returns:
        The row, with details; None when there is none.

    Raises:
        StateApiException: it is no such id, several begin like that, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import get_placement_group
        >>> group = nbray.util.placement_group([{"CPU": 1}])
        >>> group.wait()
        True
        >>> get_placement_group(group.id.hex()).state
        'CREATED'
        >>> nbray.util.remove_placement_group(group)
    """
    id = written_id(id, PlacementGroupID)
    return _first(_with_id(id, ask(q.PLACEMENT_GROUPS, address, timeout), "placement_group_id"))


def get_node(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> NodeState | None:
    """Look up a node.

    Args:
        id: its id as hexadecimal text, or its first characters, four or more.
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        _explain: has no effect.

    Returns:
        The row, with details; None when there is none.

    Raises:
        StateApiException: it is no such id, several begin like that, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import get_node
        >>> get_node(nbray.get_runtime_context().get_node_id()).state
        'ALIVE'
    """
    id = written_id(id, NodeID)
    return _first(_with_id(id, ask(q.NODES, address, timeout), "node_id"))


def get_worker(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> WorkerState | None:
    """Look up a worker or driver.

    Args:
        id: its id as hexadecimal text, or its first characters, four or more.
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        _explain: has no effect.

    Returns:
        The row, with details; None when there is none.

    Raises:
        StateApiException: it is no such id, several begin like that, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import get_worker
        >>> get_worker(nbray.get_runtime_context().get_worker_id()).worker_type
        'DRIVER'
    """
    id = written_id(id, WorkerID)
    rows, _unreachable = ask(q.WORKERS, address, timeout)
    return _first(_with_id(id, rows, "worker_id"))


def get_actor(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> ActorState | None:
    """Look up an actor.

    Args:
        id: its id as hexadecimal text, or its first characters, four or more.
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        _explain: has no effect.

    Returns:
        The row, with details; None when there is none.

    Raises:
        StateApiException: it is no such id, several begin like that, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import get_actor
        >>> @nbray.remote
        ... class Known:
        ...     def id(self):
        ...         return nbray.get_runtime_context().get_actor_id()
        >>> known = Known.remote()
        >>> get_actor(nbray.get(known.id.remote())).state
        'ALIVE'
    """
    id = written_id(id, ActorID)
    return _first(_with_id(id, ask(q.ACTORS, address, timeout), "actor_id"))


def get_objects(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> list[ObjectState]:
    """Look up what each process knows of an object.

    Args:
        id: its id as hexadecimal text, or its first characters, four or more.
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        _explain: has no effect.

    Returns:
        Rows, none when nobody knows of it.

    Raises:
        StateApiException: it is no such id, several begin like that, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import get_objects
        >>> ref = nbray.put("a value")
        >>> [row.is_owner for row in get_objects(ref.hex())]
        [True]
    """
    id = written_id(id, ObjectID)
    rows = find_objects(address, MAX_LIMIT, timeout, complete=False).rows
    return _with_id(id, rows, "object_id")


def get_job(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> JobState | None:
    """Look up a job.

    Args:
        id: a submission id; or a driver's id as hexadecimal text, or its first characters, four or
            more.
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        _explain: has no effect.

    Returns:
        The row, with details; None when there is none.

    Raises:
        StateApiException: it is no such id, several begin like that, or the cluster did not answer.

    Examples:
        >>> from nbray.util.state import get_job
        >>> get_job(nbray.get_runtime_context().get_job_id()).status
        'RUNNING'
    """
    rows = jobs(address, timeout)
    named = [row for row in rows if row.submission_id == id]
    if named:
        return named[0]
    id = written_id(id, JobID)
    return _first(_with_id(id, [row for row in rows if row.job_id], "job_id"))


def get_task(
    id: str | ObjectRef,
    address: str | None = None,
    timeout: int = 30,
    _explain: bool = False,
) -> TaskState | list[TaskState] | None:
    """Look up a task.

    Args:
        id: its id as hexadecimal text, or its first characters, four or more; or a ref of what it
            returns.
        address: the GCS; the cluster of this process, or the newest here, by default.
        timeout: seconds.
        _explain: has no effect.

    Returns:
        The row, with details; a list of rows if it was tried more often; None when there is none.

    Raises:
        StateApiException: it is no such id, several begin like that, or the cluster did not answer.

    Examples:
        >>> import time
        >>> from nbray.util.state import get_task
        >>> ref = nbray.remote(num_cpus=0)(time.sleep).remote(60)
        >>> ready, others = nbray.wait([ref], timeout=0.5)  # by then it runs
        >>> get_task(ref.task_id().hex()).func_or_class_name
        'sleep'
        >>> nbray.cancel(ref)
    """
    id = written_id(id.task_id().hex() if isinstance(id, ObjectRef) else id, TaskID)
    filters: list[Filter] = [("job_id", "=", id[-8:])] if len(id) == 2 * TaskID.SIZE else []
    found = find_tasks(address, filters, timeout, complete=False)
    rows = _with_id(id, found.rows, "task_id")
    return rows if len(rows) > 1 else _first(rows)


def _with_id(id: str, rows: list[R], field: str) -> list[R]:
    """The rows in which ``field`` is the id that begins as written."""
    wanted = full_id(id, (getattr(row, field) for row in rows))
    return [row for row in rows if getattr(row, field) == wanted]


def _first(rows: list[R]) -> R | None:
    return rows[0] if rows else None
