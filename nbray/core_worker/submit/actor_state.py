"""The life of an actor as its caller sees it: what the raylet tells, and what the link does."""

from __future__ import annotations

from enum import StrEnum

from nbray.common.life import Transitions


class State(StrEnum):
    """What is known of an actor."""

    PENDING = "pending"
    ALIVE = "alive"
    OUT_OF_TOUCH = "out of touch"  # its process cannot be reached, and nobody has said why
    RESTARTING = "restarting"
    DEAD = "dead"


class Event(StrEnum):
    """What a caller learns of an actor."""

    MADE = "made anew"
    STARTED = "started"
    LOST = "restarted"
    CLOSED = "cut off"  # the connection to its process has ended
    ENDED = "ended"


_S, _E = State, Event
TRANSITIONS: Transitions[State, Event] = Transitions(
    "An actor",
    {
        (_S.PENDING, _E.MADE): _S.PENDING,
        (_S.PENDING, _E.STARTED): _S.ALIVE,
        (_S.PENDING, _E.LOST): _S.RESTARTING,
        (_S.PENDING, _E.ENDED): _S.DEAD,
        (_S.ALIVE, _E.MADE): _S.ALIVE,
        (_S.ALIVE, _E.STARTED): _S.ALIVE,
        (_S.ALIVE, _E.LOST): _S.RESTARTING,
        (_S.ALIVE, _E.CLOSED): _S.OUT_OF_TOUCH,
        (_S.ALIVE, _E.ENDED): _S.DEAD,
        (_S.OUT_OF_TOUCH, _E.MADE): _S.PENDING,
        (_S.OUT_OF_TOUCH, _E.STARTED): _S.ALIVE,
        (_S.OUT_OF_TOUCH, _E.LOST): _S.RESTARTING,
        (_S.OUT_OF_TOUCH, _E.ENDED): _S.DEAD,
        (_S.RESTARTING, _E.MADE): _S.PENDING,
        (_S.RESTARTING, _E.STARTED): _S.ALIVE,
        (_S.RESTARTING, _E.LOST): _S.RESTARTING,
        (_S.RESTARTING, _E.ENDED): _S.DEAD,
    },
    begins=[_S.PENDING],
    ends=[_S.DEAD],
)
