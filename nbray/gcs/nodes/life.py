"""The life of one node, as the GCS knows it: a table of transitions over the row that is stored."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nbray.common.life import Transitions
from nbray.wire.records import NodeInfo


class State(StrEnum):
    """Where a node is. In its row, which others see, ``alive`` says whether it has not ended."""

    ALIVE = "ALIVE"
    DRAINING = "DRAINING"  # it takes no new work, and leaves when it has none
    AWAITED = "AWAITED"  # it was alive when the GCS ended, and has not reported to the new one
    LEFT = "LEFT"
    DEAD = "DEAD"


class Event(StrEnum):
    """What happens to a node."""

    RESTARTED = "awaited by a new GCS"
    REPORTED = "heard of again"
    DRAINED = "drained"
    LEFT = "left"
    DIED = "declared dead"


TRANSITIONS = Transitions(
    "A node",
    {
        (State.ALIVE, Event.RESTARTED): State.AWAITED,
        (State.ALIVE, Event.DRAINED): State.DRAINING,
        (State.ALIVE, Event.LEFT): State.LEFT,
        (State.ALIVE, Event.DIED): State.DEAD,
        (State.DRAINING, Event.RESTARTED): State.AWAITED,
        (State.DRAINING, Event.LEFT): State.LEFT,
        (State.DRAINING, Event.DIED): State.DEAD,
        (State.AWAITED, Event.RESTARTED): State.AWAITED,
        (State.AWAITED, Event.REPORTED): State.ALIVE,
        (State.AWAITED, Event.LEFT): State.LEFT,
        (State.AWAITED, Event.DIED): State.DEAD,
    },
    begins={State.ALIVE},
    ends={State.LEFT, State.DEAD},
)
_AWAITED = State.AWAITED


class NodeLife(msgspec.Struct, array_like=True):
    """A node: its newest row, its state, and its last events, the newest last.

    The methods take the time in seconds since the epoch.
    """

    row: NodeInfo
    state: State = State.ALIVE
    story: list[str] = []

    @property
    def awaited(self) -> bool:
        """Whether it has not reported to this GCS."""
        return self.state is _AWAITED

    def restart(self, now: float) -> None:
        """The GCS is a new one; the node has not reported to it."""
        self._move(Event.RESTARTED, now, "the GCS was started again")

    def report(self, row: NodeInfo, now: float) -> bool:
        """A row came; returns whether it is the first one for this GCS."""
        first = self.awaited
        if first:
            self._move(Event.REPORTED, now, "it reports to the new GCS")
        row.started = self.row.started
        row.draining = row.draining or self.row.draining  # a report may have been on its way
        self.row = row
        if row.draining:
            self.drain(row.draining, now)
        return first

    def drain(self, reason: str, now: float) -> None:
        """Its raylet takes nothing new any more; that is said once."""
        self.row.draining = reason
        if self.state is State.ALIVE:
            self._move(Event.DRAINED, now, reason)

    def leave(self, row: NodeInfo, now: float) -> None:
        """It said with its last row that it leaves."""
        self._move(Event.LEFT, now, row.draining or "its raylet was stopped")
        row.started, row.ended = self.row.started, now
        self.row = row

    def die(self, cause: str, now: float) -> None:
        """It is dead, whether it knows or not."""
        self._move(Event.DIED, now, cause)
        self.row.alive, self.row.death_cause, self.row.ended = False, cause, now

    def _move(self, event: Event, now: float, detail: str) -> None:
        TRANSITIONS.move(self, event, now, detail, f"Node {self.row.node_id.hex()}")
