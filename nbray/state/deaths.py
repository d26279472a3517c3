"""Why an actor is dead, as Ray's state API says it, and in words."""

from __future__ import annotations

from typing import Any

from nbray.wire.causes import CauseKind
from nbray.wire.state_messages import ActorRow

# Of Ray's contexts of a death, that of the process's end is the one for all that is not here.
_CONTEXTS: dict[str, str] = {
    CauseKind.RUNTIME_ENV: "runtime_env_failed_context",
    CauseKind.UNSCHEDULABLE: "actor_unschedulable_context",
    CauseKind.GROUP_REMOVED: "actor_unschedulable_context",
    CauseKind.OUT_OF_MEMORY: "oom_context",
}
_REASONS: dict[str, str] = {
    CauseKind.KILLED: "RAY_KILL",
    CauseKind.NO_HANDLES: "OUT_OF_SCOPE",
    CauseKind.OWNER_DIED: "OWNER_DIED",
    CauseKind.JOB_ENDED: "OWNER_DIED",
    CauseKind.NODE_DIED: "NODE_DIED",
    CauseKind.UNREACHABLE: "NODE_DIED",
    CauseKind.ENDED: "WORKER_DIED",
    CauseKind.LEFT: "WORKER_DIED",
    CauseKind.ENDED_WITH_GROUP: "WORKER_DIED",
}


def death_of(row: ActorRow) -> dict[str, Any] | None:
    """What ``death_cause`` has of an actor that is dead, or was before it was started again."""
    if not row.death_cause:
        return None
    if row.death_kind == CauseKind.CONSTRUCTOR_RAISED:
        said = {"formatted_exception_string": row.death_cause, "language": "PYTHON"}
        return {"creation_task_failure_context": said}
    if context := _CONTEXTS.get(row.death_kind):
        return {context: {"error_message": row.death_cause}}
    return {
        "actor_died_error_context": {
            "error_message": row.death_cause,
            "owner_id": row.owner_id.hex(),
            "owner_ip_address": row.owner_host,
            "node_ip_address": row.host,
            "pid": row.pid,
            "name": row.name,
            "ray_namespace": row.namespace,
            "class_name": row.class_name,
            "actor_id": row.actor_id.hex(),
            "reason": _REASONS.get(row.death_kind, "UNSPECIFIED"),
            "never_started": not row.started,
        }
    }
