"""A lease: the right of a submitter to use a worker, from its request to its end. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from nbray.common.life import Transitions
from nbray.raylet.workers.pending import Holder, PendingRequest
from nbray.raylet.workers.resource_set import Allocation
from nbray.wire.messages import RequestLease


class State(StrEnum):
    """Where a lease is."""

    PREPARING = "PREPARING"  # its runtime environment is set up
    QUEUED = "QUEUED"  # it waits for resources
    STARTING = "STARTING"  # it has resources and waits for a worker
    HELD = "HELD"  # its holder has a worker
    RECLAIMED = "RECLAIMED"  # its holder has one, and is asked to give it back
    ENDED = "ENDED"


class Event(StrEnum):
    """What happens to a lease."""

    QUEUED = "queued"
    GRANTED = "given resources"
    LEASED = "given a worker"
    RECLAIMED = "asked back"
    RETURNED = "returned"
    MOVED = "sent to another node"
    REFUSED = "refused"
    TAKEN_BACK = "taken back"  # its holder does not answer
    WITHDRAWN = "withdrawn"  # by its holder, or its holder has gone
    LOST = "lost"  # its worker or its holder has gone


TRANSITIONS = Transitions(
    "A lease",
    {
        (State.PREPARING, Event.QUEUED): State.QUEUED,
        (State.PREPARING, Event.REFUSED): State.ENDED,
        (State.PREPARING, Event.WITHDRAWN): State.ENDED,
        (State.QUEUED, Event.GRANTED): State.STARTING,
        (State.QUEUED, Event.MOVED): State.ENDED,
        (State.QUEUED, Event.REFUSED): State.ENDED,
        (State.QUEUED, Event.WITHDRAWN): State.ENDED,
        (State.STARTING, Event.LEASED): State.HELD,
        (State.STARTING, Event.REFUSED): State.ENDED,
        (State.STARTING, Event.WITHDRAWN): State.ENDED,
        (State.HELD, Event.RECLAIMED): State.RECLAIMED,
        (State.HELD, Event.RETURNED): State.ENDED,
        (State.HELD, Event.TAKEN_BACK): State.ENDED,
        (State.HELD, Event.LOST): State.ENDED,
        (State.RECLAIMED, Event.RECLAIMED): State.RECLAIMED,
        (State.RECLAIMED, Event.RETURNED): State.ENDED,
        (State.RECLAIMED, Event.TAKEN_BACK): State.ENDED,
        (State.RECLAIMED, Event.LOST): State.ENDED,
    },
    begins={State.PREPARING},
    ends={State.ENDED},
)


@dataclass(eq=False)
class LeaseLife:
    """One lease.

    Attributes:
        holder: who asked for it.
        request: what was asked.
        pending: what waits for resources, while it is queued.
        taken: what it has of the node.
        give_up: takes back what it waits for now.
        lease_id: its number, once it is held.
        worker_id: the worker, once it is held.
        since: when its holder got the worker, in seconds of the caller's clock.
        wanted: its holder knows that others wait for it.
        asked: when it was asked back first.
        inquired: when its worker was asked last whether it is idle.
        idle: when that worker had begun its last task, by its clock, and since when it is known to
            be idle.
    """

    holder: Holder
    request: RequestLease
    state: State = State.PREPARING
    story: list[str] = field(default_factory=list)
    pending: PendingRequest | None = None
    taken: Allocation | None = None
    give_up: Callable[[], object] = bool
    lease_id: int = 0
    worker_id: bytes = b""
    since: float = 0.0
    wanted: bool = False
    asked: float | None = None
    inquired: float = 0.0
    idle: tuple[float, float] | None = None

    @property
    def queue(self) -> object:
        """For which queue of its holder it is; equal for those that share their leases."""
        asked = self.request
        return asked.resources, asked.runtime_env, asked.strategy, asked.selector, asked.near

    def move(self, event: Event, now: float, detail: str = "") -> None:
        """Something happens to it, at ``now`` in seconds since the epoch."""
        name = f"The lease of request {self.request.request_id}"
        TRANSITIONS.move(self, event, now, detail, name)
