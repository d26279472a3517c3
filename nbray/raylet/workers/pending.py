"""Requests that wait for resources, and what the scheduler decides of them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from nbray.raylet.workers.resource_set import Allocation
from nbray.scheduling.policy import Choice, Demand
from nbray.wire.messages import Message


class Holder(Protocol):
    """Who asked for a lease, and is told what becomes of it.

    Attributes:
        silent: it does not answer, and is served no more until it does.
    """

    silent: bool

    def send(self, message: Message) -> None: ...

    def warn(self, text: str, origin: int = 0) -> None: ...


@dataclass(eq=False)
class PendingRequest:
    """Resources that somebody waits for: a lease, or an actor that is to start.

    Attributes:
        asker: who waits; the same for all requests of a submitter.
        queue: for which of its queues; equal for those that share their leases.
        demand: what is needed.
        on_granted: gets what was taken.
        on_moved: gets the node that serves it, or why none does; without it, it stays here.
        warn: shows the driver why it waits.
        near: the node that goes first, where its arguments lie; empty: this one.
        backlog: for how many tasks it stands.
        since: since when it waits, in seconds of the caller's clock.
        overdue: others may no longer pass it.
        looked_up: the GCS was asked for the node that it names.
        unhelped: all leases together did not do for it, so that nobody was told of it.
    """

    asker: object
    demand: Demand
    on_granted: Callable[[Allocation], None] = field(default=lambda taken: None)
    on_moved: Callable[[Choice], None] | None = None
    warn: Callable[[str], None] | None = None
    near: bytes = b""
    backlog: int = 1
    queue: object = None
    since: float = 0.0
    overdue: bool = False
    looked_up: bool = False
    unhelped: bool = False


class Granted(NamedTuple):
    """It has its resources."""

    request: PendingRequest
    taken: Allocation


class Moved(NamedTuple):
    """Another node serves it, or none does."""

    request: PendingRequest
    choice: Choice


class Infeasible(NamedTuple):
    """No node could ever serve it; it waits all the same."""

    request: PendingRequest


class UnknownNode(NamedTuple):
    """It names a node of which this one has not heard: the GCS is to be asked."""

    request: PendingRequest


class Reclaim(NamedTuple):
    """A holder is to give back its idle leases, and those of these numbers once they are idle."""

    holder: Holder
    lease_ids: list[int]


Decision = Granted | Moved | Infeasible | UnknownNode | Reclaim
