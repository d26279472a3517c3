"""What the cause of a failure is for a user: one table from kinds of causes to exceptions."""

from __future__ import annotations

from typing import NamedTuple

from nbray.exceptions import (
    DIED,
    ActorDiedError,
    ActorError,
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    NbrayError,
    NbraySystemError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    ProcessDeath,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from nbray.wire.causes import Cause, CauseKind


class _Classes(NamedTuple):
    """What a task, a call of an actor and the reader or maker of an object get to see."""

    task: type[NbrayError] = NbraySystemError
    call: type[NbrayError] = ActorDiedError
    value: type[NbrayError] = ObjectLostError


_DEFAULT = _Classes()
_TABLE = {
    CauseKind.ENDED: _Classes(task=WorkerCrashedError),
    CauseKind.NODE_DIED: _Classes(task=WorkerCrashedError),
    CauseKind.UNREACHABLE: _Classes(task=WorkerCrashedError),
    CauseKind.OUT_OF_MEMORY: _Classes(task=OutOfMemoryError),
    CauseKind.RUNTIME_ENV: _Classes(RuntimeEnvSetupError, RuntimeEnvSetupError),
    CauseKind.UNSCHEDULABLE: _Classes(TaskUnschedulableError, ActorUnschedulableError),
    CauseKind.GROUP_REMOVED: _Classes(TaskPlacementGroupRemoved, ActorPlacementGroupRemoved),
    CauseKind.STORE_FULL: _Classes(value=ObjectStoreFullError),
    CauseKind.DISK_FULL: _Classes(value=OutOfDiskError),
}


def task_error(cause: Cause) -> NbrayError:
    """What a task fails with that could not be run, or whose worker ended."""
    return _made(_TABLE.get(cause.kind, _DEFAULT).task, cause)


def value_error(cause: Cause) -> NbrayError:
    """What the reader or maker of an object gets."""
    return _made(_TABLE.get(cause.kind, _DEFAULT).value, cause)


def call_error(cause: Cause, actor_id: str, call: str) -> NbrayError:
    """What a call ("Class.method") of an actor fails with that is dead of ``cause``."""
    kind = _TABLE.get(cause.kind, _DEFAULT).call
    if not issubclass(kind, ActorError):
        return _made(kind, cause)
    if cause.kind is CauseKind.CONSTRUCTOR_RAISED:
        return kind(actor_id, str(cause), actor_init_failed=True).with_facts(cause)
    text = (
        f"{DIED}\n\tclass_name: {call.rpartition('.')[0]}\n\tactor_id: {actor_id}\n"
        f"{call}: the actor is dead because {cause}."
    )
    return kind(actor_id, text).with_facts(cause)


def _made(kind: type[NbrayError], cause: Cause) -> NbrayError:
    error = kind(str(cause))
    return error.with_facts(cause) if isinstance(error, ProcessDeath) else error


def crashed(name: str, cause: Cause) -> Exception:
    """What a task ends with whose worker died of it, and which may not be run again."""
    error = WorkerCrashedError(
        "The worker died unexpectedly while executing this task, and no retry is left.\n"
        f"Task {name}: {cause}"
    )
    return error.with_facts(cause)
