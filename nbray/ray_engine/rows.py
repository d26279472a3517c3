"""Ray's state API, with nbray's rows: fields have the same names where both have them.

Ray's API asks its dashboard, which has a limit of rows and of questions a second. It is given the
address of the cluster, since a machine may have several.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import ray
from ray.util import state as rays
from ray.util.state.exception import RayStateApiException

from nbray.exceptions import NbrayError
from nbray.notebook import (
    ActorState,
    JobState,
    NodeState,
    PlacementGroupState,
    TaskState,
    WorkerState,
)

from .post import NAMESPACE, PostOffice

_Row = TypeVar("_Row")
_MOST = 10_000
_TIMEOUT_S = 10


def _no_cells(_task: str) -> int | None:
    return None


_cells: Callable[[str], int | None] = _no_cells


def know_cells(cells: Callable[[str], int | None]) -> None:
    """``cells`` says which cell submitted a task."""
    global _cells
    _cells = cells


def _address() -> str | None:
    if ray.util.client.ray.is_connected():
        return None
    address: str = ray.get_runtime_context().gcs_address
    return address


def _asked(question: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Ask Ray's dashboard.

    Raises:
        NbrayError: it does not answer, or there is none.
    """
    options = {"timeout": _TIMEOUT_S, **options, "address": _address()}
    if "limit" in options:
        options["limit"] = min(options["limit"], _MOST)
    try:
        return question(*args, **options)
    except (ray.exceptions.RayError, RayStateApiException) as error:
        raise NbrayError(f"Ray's dashboard does not answer: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise NbrayError(f"Ray's dashboard does not answer: {error}") from error


def _converted(kind: type[_Row], row: Any) -> _Row:
    values: dict[str, Any] = {}
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name in row.__dict__:
            value = getattr(row, one.name)
            values[one.name] = value.value if isinstance(value, enum.Enum) else value
    return kind(**values)


def list_nodes(**options: Any) -> list[NodeState]:
    """As Ray documents it."""
    return [_converted(NodeState, row) for row in _asked(rays.list_nodes, detail=True, **options)]


def list_actors(**options: Any) -> list[ActorState]:
    """As Ray documents it."""
    found = []
    for row in _asked(rays.list_actors, **options):
        if row.class_name == PostOffice.__name__ and row.ray_namespace in (NAMESPACE, None):
            continue  # the notebook's own
        found.append(_converted(ActorState, row))
    return found


def list_workers(**options: Any) -> list[WorkerState]:
    """As Ray documents it; what a worker does is found by the tables of tasks and actors."""
    options["detail"] = True
    found = [_converted(WorkerState, row) for row in _asked(rays.list_workers, **options)]
    busy = {
        row.worker_id
        for row in _asked(
            rays.list_tasks, filters=[("state", "=", "RUNNING")], limit=_MOST,
            raise_on_missing_output=False, detail=True,
        )
    }  # fmt: skip
    actors = {
        (row.pid, row.node_id): row.actor_id
        for row in _asked(rays.list_actors, filters=[("state", "=", "ALIVE")], limit=_MOST)
    }
    for worker in found:
        worker.actor_id = actors.get((worker.pid, worker.node_id))
        works = "BUSY" if worker.worker_id in busy else "IDLE"
        worker.activity = "ACTOR" if worker.actor_id else works
        if worker.worker_type != "WORKER":
            worker.activity = ""
    return found


def list_tasks(*, filters: Sequence[tuple[str, str, Any]] = (), **options: Any) -> list[TaskState]:
    """As Ray documents it; a filter of the ``origin`` is the notebook's cell."""
    own = [(name, value) for name, _, value in filters if name == "origin"]
    others = [one for one in filters if one[0] != "origin"]
    found = []
    for row in _asked(rays.list_tasks, filters=others or None, **options):
        made = _converted(TaskState, row)
        made.origin = _cells(row.task_id) or 0
        if all(made.origin == value for _, value in own):
            found.append(made)
    return found


def task(task_id: str) -> TaskState | None:
    """One task's row, with its details; None while Ray does not know it, or does not answer."""
    try:
        found = _asked(
            rays.list_tasks, filters=[("task_id", "=", task_id)], detail=True, limit=10,
            timeout=2, raise_on_missing_output=False,
        )  # fmt: skip
    except NbrayError:
        return None
    return _converted(TaskState, found[0]) if found else None


def list_jobs(**options: Any) -> list[JobState]:
    """As Ray documents it."""
    return [_converted(JobState, row) for row in _asked(rays.list_jobs, **options)]


def get_actor(actor_id: str, **options: Any) -> ActorState | None:
    """One actor's row."""
    found = list_actors(filters=[("actor_id", "=", actor_id)], detail=True, **options)
    return found[0] if found else None


def get_placement_group(group_id: str, **options: Any) -> PlacementGroupState | None:
    """One group's row."""
    found = _asked(
        rays.list_placement_groups, filters=[("placement_group_id", "=", group_id)], detail=True,
        **options,
    )  # fmt: skip
    return _converted(PlacementGroupState, found[0]) if found else None


def get_log(
    *, worker_id: str, suffix: str = "out", tail: int = -1, errors: str = "replace"
) -> Iterable[Any]:
    """The log of a worker."""
    workers = _asked(rays.list_workers, filters=[("worker_id", "=", worker_id)], detail=True)
    if not workers:
        return
    parts = _asked(
        rays.get_log, pid=workers[0].pid, node_id=workers[0].node_id, suffix=suffix, tail=tail,
        errors=errors,
    )  # fmt: skip
    try:
        yield from parts
    except (ray.exceptions.RayError, OSError, RuntimeError) as error:
        raise NbrayError(f"Ray has no log of this worker: {error}") from error
