"""What the submitting machines decide, for `edge` to carry out in order at the end of a turn.

Decisions are made for a worker and a turn, never for a task that goes well, so that the hot path
pays nothing for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nbray.core_worker.tasks import ActorCall, PendingTask
from nbray.wire.messages import Message, RequestLease, TaskDone
from nbray.wire.records import Address, TaskSpec


class Push(msgspec.Struct, frozen=True):
    """Push these tasks to a leased worker, in this order."""

    worker: Address
    tasks: Sequence[PendingTask]
    devices: dict[str, list[str]] | None
    threads: int


class PushCalls(msgspec.Struct, frozen=True):
    """Push these calls to an actor, in this order."""

    worker: Address
    calls: list[ActorCall]


class AskLease(msgspec.Struct, frozen=True):
    """Ask a raylet for a worker; the one of this node if ``host`` is empty."""

    request: RequestLease
    node_id: bytes = b""
    host: str = ""
    port: int = 0


class ToRaylet(msgspec.Struct, frozen=True):
    """Tell a node's raylet; nothing if it has ended. Empty: that of this node."""

    node_id: bytes
    message: Message


class ToWorker(msgspec.Struct, frozen=True):
    """Tell a worker or actor that this process is connected to."""

    worker_id: bytes
    message: Message


class Connect(msgspec.Struct, frozen=True):
    """Connect to a worker that is to be pushed to soon."""

    worker: Address


class Failed(msgspec.Struct, frozen=True):
    """A task ends with this error."""

    spec: TaskSpec
    error: Exception


class AttemptFailed(msgspec.Struct, frozen=True):
    """One attempt failed with this error, and there will be another, which ``spec`` is by then."""

    spec: TaskSpec
    attempt: int
    error: Exception


class AttemptRaised(msgspec.Struct, frozen=True):
    """One attempt raised, and there will be another: what stands in the reply goes."""

    spec: TaskSpec
    worker_id: bytes
    done: TaskDone


class SeekArguments(msgspec.Struct, frozen=True):
    """A worker found no copy of some arguments on these nodes; the task waits for them."""

    task: PendingTask
    tried: dict[bytes, list[bytes]]


class WakeAfter(msgspec.Struct, frozen=True):
    """Call ``wake`` with the time then, after so many seconds."""

    seconds: float
    wake: Callable[[float], None]


Decisions = deque[Any]
