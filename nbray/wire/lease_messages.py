"""Messages of a worker and its raylet about the lease under which it works."""

from __future__ import annotations

import msgspec


class AskAssigned(msgspec.Struct, array_like=True, tag=165):
    """Worker to raylet. Answered by `Assigned`."""

    request_id: int


class Assigned(msgspec.Struct, array_like=True, tag=166):
    """Raylet to worker: the resources of its lease, in units of 1/10000."""

    request_id: int
    resources: dict[str, int]


class AskIdle(msgspec.Struct, array_like=True, tag=196):
    """Raylet to worker, while others wait for it. Answered by `WorkerIdle`."""

    lease_id: int


class WorkerIdle(msgspec.Struct, array_like=True, tag=197):
    """Worker to raylet: whether I am idle, and when I began my last task, by my clock."""

    lease_id: int
    idle: bool
    begun: float
