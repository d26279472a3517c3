"""The life of a worker process, as its raylet sees it."""

from __future__ import annotations

from enum import StrEnum

from nbray.common.life import Transitions


class State(StrEnum):
    """Where a worker is."""

    STARTING = "STARTING"  # it was asked for, and is not connected yet
    IDLE = "IDLE"
    BUSY = "BUSY"  # a lease or an actor that starts has it
    ACTOR = "ACTOR"
    LEAVING = "LEAVING"  # it was asked to leave; it may stay, if others need what it owns
    ENDING = "ENDING"  # it is ended, since somebody wished so
    LOST = "LOST"  # nobody wished its end; what is left of it is ended
    LEFT = "LEFT"  # it ended as somebody wished
    FAILED = "FAILED"  # it ended although nobody wished so


class Event(StrEnum):
    """What happens to a worker."""

    READY = "ready"
    HANDED_OUT = "handed out"
    GIVEN_BACK = "given back"
    BECAME_ACTOR = "an actor"
    ASKED = "asked to leave"
    STAYED = "stayed"
    ENDED_BY_WISH = "ended by wish"
    LOST = "lost"
    GONE = "gone"  # its process has ended


TRANSITIONS = Transitions(
    "A worker",
    {
        (State.STARTING, Event.READY): State.IDLE,
        (State.STARTING, Event.GONE): State.FAILED,
        (State.IDLE, Event.HANDED_OUT): State.BUSY,
        (State.IDLE, Event.ASKED): State.LEAVING,
        (State.IDLE, Event.ENDED_BY_WISH): State.ENDING,
        (State.IDLE, Event.LOST): State.LOST,
        (State.IDLE, Event.GONE): State.FAILED,
        (State.BUSY, Event.GIVEN_BACK): State.IDLE,
        (State.BUSY, Event.BECAME_ACTOR): State.ACTOR,
        (State.BUSY, Event.ENDED_BY_WISH): State.ENDING,
        (State.BUSY, Event.LOST): State.LOST,
        (State.BUSY, Event.GONE): State.FAILED,
        (State.ACTOR, Event.ASKED): State.LEAVING,
        (State.ACTOR, Event.ENDED_BY_WISH): State.ENDING,
        (State.ACTOR, Event.LOST): State.LOST,
        (State.ACTOR, Event.GONE): State.FAILED,
        (State.LEAVING, Event.ASKED): State.LEAVING,
        (State.LEAVING, Event.STAYED): State.IDLE,
        (State.LEAVING, Event.ENDED_BY_WISH): State.ENDING,
        (State.LEAVING, Event.LOST): State.ENDING,
        (State.LEAVING, Event.GONE): State.LEFT,
        # The first word counts: what is said of one that ends already changes nothing.
        (State.ENDING, Event.GIVEN_BACK): State.ENDING,
        (State.ENDING, Event.ASKED): State.ENDING,
        (State.ENDING, Event.STAYED): State.ENDING,
        (State.ENDING, Event.ENDED_BY_WISH): State.ENDING,
        (State.ENDING, Event.LOST): State.ENDING,
        (State.ENDING, Event.GONE): State.LEFT,
        (State.LOST, Event.GIVEN_BACK): State.LOST,
        (State.LOST, Event.ASKED): State.LOST,
        (State.LOST, Event.STAYED): State.LOST,
        (State.LOST, Event.ENDED_BY_WISH): State.LOST,
        (State.LOST, Event.LOST): State.LOST,
        (State.LOST, Event.GONE): State.FAILED,
    },
    begins={State.STARTING},
    ends={State.LEFT, State.FAILED},
)
