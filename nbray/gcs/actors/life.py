"""The life of one actor: a table of transitions over the row that is stored.

It decides and does not act: no clock, no messages. An *attempt* is one try to have the actor's
process: 0 at first, one more after every loss. Whatever is said of an actor names its attempt, so
that news of an older one, which may arrive at any time and more than once, changes nothing.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nbray.common.life import Transitions
from nbray.wire.causes import Cause
from nbray.wire.records import Address

_KILLS_KEPT = 8


class State(StrEnum):
    """Where an actor is; the names are those of the messages."""

    DEPENDENCIES_UNREADY = "DEPENDENCIES_UNREADY"
    PENDING = "PENDING"
    ALIVE = "ALIVE"
    RESTARTING = "RESTARTING"
    DEAD = "DEAD"


class Event(StrEnum):
    """What happens to an actor."""

    READY = "ready"  # the arguments of its constructor are there
    STARTED = "started"  # its process is ready for calls
    LOST = "lost"  # its process ended, and it may have another
    ENDED = "ended"  # it does not come back


TRANSITIONS = Transitions(
    "An actor",
    {
        (State.DEPENDENCIES_UNREADY, Event.READY): State.PENDING,
        (State.DEPENDENCIES_UNREADY, Event.ENDED): State.DEAD,
        (State.PENDING, Event.STARTED): State.ALIVE,
        (State.PENDING, Event.LOST): State.RESTARTING,
        (State.PENDING, Event.ENDED): State.DEAD,
        (State.ALIVE, Event.LOST): State.RESTARTING,
        (State.ALIVE, Event.ENDED): State.DEAD,
        (State.RESTARTING, Event.STARTED): State.ALIVE,
        (State.RESTARTING, Event.LOST): State.RESTARTING,
        (State.RESTARTING, Event.ENDED): State.DEAD,
    },
    begins={State.DEPENDENCIES_UNREADY, State.PENDING},
    ends={State.DEAD},
)


class ActorLife(msgspec.Struct, array_like=True):
    """The row of an actor that changes; what it is made of is stored apart.

    Attributes:
        restarts_left: how often it may still be lost; -1 for ever.
        version: grows with every change of state.
        address: where it lives, when it is alive.
        placing: the node that was asked to start this attempt.
        restarts: the number of the attempt.
        last_kills: the requests of the last kills, which may be repeated, one behind the other.
        story: the last events, the newest last.
        shown: what its own ``__repr__`` says.
    """

    actor_id: bytes
    restarts_left: int
    state: State = State.PENDING
    version: int = 0
    address: Address | None = None
    cause: Cause | None = None
    pid: int = 0
    restarts: int = 0
    started: float = 0.0
    ended: float = 0.0
    placing: bytes = b""
    last_kills: bytes = b""
    story: list[str] = []
    shown: str = ""

    @property
    def unplaced(self) -> bool:
        """Whether it waits for a process."""
        return self.state in (State.PENDING, State.RESTARTING)

    def node_id(self) -> bytes:
        """The node where its process is, or is being made."""
        return self.address.node_id if self.address is not None else self.placing

    def note_kill(self, request_id: bytes) -> bool:
        """A kill is asked for; whether it is for the first time.

        ``request_id`` has eight bytes, or none if nobody repeats it.
        """
        kept = self.last_kills
        if request_id and request_id in (kept[at : at + 8] for at in range(0, len(kept), 8)):
            return False
        self.last_kills = (kept + request_id)[-8 * _KILLS_KEPT :]
        return True

    def ready(self, now: float) -> None:
        """The arguments of its constructor are there. ``now`` in seconds since the epoch."""
        self._move(Event.READY, now, "its arguments are there")

    def start(self, address: Address, pid: int, now: float) -> None:
        """Its process is ready. ``now`` in seconds since the epoch."""
        self._move(Event.STARTED, now, f"pid {pid} on node {address.node_id.hex()[:8]}")
        self.address, self.pid, self.started, self.placing = address, pid, now, b""

    def lose(self, cause: Cause, now: float) -> bool:
        """Its process ended; returns whether there is another attempt."""
        again = self.restarts_left != 0
        if not again:
            self.end(cause, now)
            return False
        self._move(Event.LOST, now, str(cause))
        self.cause = cause
        self.restarts_left -= self.restarts_left > 0
        self.restarts += 1
        self.address, self.placing = None, b""
        return True

    def end(self, cause: Cause, now: float) -> None:
        """It does not come back."""
        self._move(Event.ENDED, now, str(cause))
        self.cause = cause
        self.address, self.placing, self.ended = None, b"", now

    def _move(self, event: Event, now: float, detail: str) -> None:
        name, at = f"Actor {self.actor_id.hex()}", f"attempt {self.restarts}"
        TRANSITIONS.move(self, event, now, detail, name, at)
        self.version += 1
        self.cause = None
