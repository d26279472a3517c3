"""Who gets the node's resources, and who is sent to another node: pure decisions.

Requests are served first come first served per shape. One that has to wait here goes to a node
where it fits now; one that could never run here goes to a node where it could.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from nbray.common.resources import add, fits, subtract
from nbray.wire.messages import NodeInfo


@dataclass
class LeaseRequest:
    """A wish for resources; ``key`` is the caller's, ``movable``: another node may serve it."""

    key: object
    resources: dict[str, int]
    movable: bool = False


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

    def requests(self) -> list[LeaseRequest]:
        """The requests that wait."""
        return list(self._waiting)

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

    def spill(self, others: Iterable[NodeInfo]) -> list[tuple[LeaseRequest, NodeInfo]]:
        """Take out the waiting requests that go to another node, each with its node.

        What they need is subtracted from the rows, so that a burst does not go to one node.
        """
        nodes = list(others)
        spilled: list[tuple[LeaseRequest, NodeInfo]] = []
        for request in list(self._waiting):
            node = self._better_node(request.resources, nodes) if request.movable else None
            if node is not None:
                subtract(node.available, request.resources)
                self._waiting.remove(request)
                spilled.append((request, node))
        return spilled

    def _better_node(self, demand: dict[str, int], nodes: list[NodeInfo]) -> NodeInfo | None:
        able = [node for node in nodes if fits(demand, node.available)]
        if not able and not self.feasible(demand):
            able = [node for node in nodes if fits(demand, node.total)]
        return max(able, key=lambda node: _headroom(demand, node), default=None)

    def give_back(self, resources: dict[str, int]) -> None:
        """Resources are free again."""
        add(self.available, resources)

    def take(self, resources: dict[str, int]) -> None:
        """Take resources that are in use already (a worker that goes on)."""
        subtract(self.available, resources)


def _headroom(demand: dict[str, int], node: NodeInfo) -> float:
    """What share of its scarcest demanded resource the node would have left."""
    return min(
        (
            (node.available.get(name, 0) - amount) / max(1, node.total.get(name, 0))
            for name, amount in demand.items()
        ),
        default=1.0,
    )
