"""The life of a submitted job, as a table.

A job is PENDING until a supervisor has claimed it, which one alone can do: who claims a job that
another has claimed, or that was stopped, is refused and runs nothing. From then on it is RUNNING.
One that is to stop while it runs is STOPPING until its processes are gone; Ray shows that as
RUNNING. An ended job stays until it is deleted.
"""

from __future__ import annotations

from enum import StrEnum

from nbray.common.life import Transitions


class State(StrEnum):
    """Where a job is in its life."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    DELETED = "DELETED"


class Event(StrEnum):
    """What happens to it."""

    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ASKED_TO_STOP = "asked to stop"
    DELETED = "deleted"


ENDED = frozenset({State.STOPPED, State.SUCCEEDED, State.FAILED})
"""The states in which nothing of a job runs any more."""

TRANSITIONS: Transitions[State, Event] = Transitions(
    "A submitted job",
    {
        (State.PENDING, Event.CLAIMED): State.RUNNING,
        (State.PENDING, Event.FAILED): State.FAILED,
        (State.PENDING, Event.ASKED_TO_STOP): State.STOPPED,
        (State.RUNNING, Event.SUCCEEDED): State.SUCCEEDED,
        (State.RUNNING, Event.FAILED): State.FAILED,
        (State.RUNNING, Event.ASKED_TO_STOP): State.STOPPING,
        (State.STOPPING, Event.ASKED_TO_STOP): State.STOPPING,
        (State.STOPPING, Event.SUCCEEDED): State.STOPPED,
        (State.STOPPING, Event.FAILED): State.STOPPED,
        (State.STOPPED, Event.DELETED): State.DELETED,
        (State.SUCCEEDED, Event.DELETED): State.DELETED,
        (State.FAILED, Event.DELETED): State.DELETED,
    },
    begins=[State.PENDING],
    ends=[State.DELETED],
)
