"""Who gets the node's resources: pure decisions, first come first served per shape."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from nbray.common.resources import add, fits, subtract


@dataclass
class LeaseRequest:
    """A wish for a worker of a resource shape; ``key`` is the caller's."""

    key: object
    resources: dict[str, int]


@dataclass
class Scheduler:
    """Resources of one node and the requests that wait for them.

    A request may pass an earlier one of another shape, never one of its own.
    """

    total: dict[str, int]
    available: dict[str, int] = field(default_factory=dict)
    _waiting: deque[LeaseRequest] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.available = dict(self.total)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def feasible(self, resources: dict[str, int]) -> bool:
        """Whether the node could ever serve this shape."""
        return fits(resources, self.total)

    def submit(self, request: LeaseRequest) -> None:
        """Put a request into the queue."""
        self._waiting.append(request)

    def cancel(self, key: object) -> bool:
        """Take a request out; False when it does not wait."""
        for request in self._waiting:
            if request.key == key:
                self._waiting.remove(request)
                return True
        return False

    def grant(self, most: int) -> list[LeaseRequest]:
        """Up to ``most`` requests that are served now; their resources are taken."""
        granted: list[LeaseRequest] = []
        passed: list[dict[str, int]] = []
        for request in list(self._waiting):
            if len(granted) >= most:
                break
            if request.resources in passed:
                continue
            if fits(request.resources, self.available):
                subtract(self.available, request.resources)
                self._waiting.remove(request)
                granted.append(request)
            else:
                passed.append(request.resources)
        return granted

    def take(self, resources: dict[str, int]) -> None:
        """Take resources that are in use already (an actor, a worker that goes on)."""
        subtract(self.available, resources)

    def give_back(self, resources: dict[str, int]) -> None:
        """Resources are free again."""
        add(self.available, resources)
