"""What tables and pages say of a task."""

from __future__ import annotations

import time

from nbray.state.rows import TaskState

from .html import Markup, tag

_STATES = {
    "PENDING_ARGS_AVAIL": "waits for arguments",
    "PENDING_NODE_ASSIGNMENT": "queued",
    "SUBMITTED_TO_WORKER": "sent",
    "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY": "in the actor's queue",
}


def state(row: TaskState) -> Markup:
    """The state of a task in words."""
    if row.state == "FAILED":
        if row.error_type == "TASK_CANCELLED":
            return tag("span", "cancelled", class_="dim")
        return tag("span", "failed", class_="bad")
    return tag("span", _STATES.get(row.state, row.state.lower()),
               class_="good" if row.state == "RUNNING" else None)  # fmt: skip


def seconds(row: TaskState) -> float | None:
    """How long it ran, or runs."""
    if not row.start_time_ms:
        return None
    return ((row.end_time_ms or time.time() * 1000) - row.start_time_ms) / 1000
