"""Who gets the node's resources, and who is sent to another node: pure decisions.

Requests are served first come first served per shape; one may pass an earlier one of another
shape. Where a request goes at first is the policy's choice (`nbray.scheduling.policy`). One that
waits here moves when the policy finds a node where it fits now, or when it could never run here.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbray.raylet.resource_set import Allocation, Devices, ResourceSet
from nbray.scheduling.policy import (
    Choice,
    Demand,
    Verdict,
    bundles_of,
    charge,
    choose,
    could_hold,
    may_run,
)
from nbray.wire.records import BundleInfo, NodeInfo
from nbray.wire.strategies import InGroup, Spread


@dataclass(eq=False)
class LeaseRequest:
    """A wish for resources.

    Attributes:
        key: the caller's name for it.
        demand: what is needed.
        movable: another node may serve it.
        near: the node that goes first, where its arguments lie; empty: this one.
    """

    key: object
    demand: Demand
    movable: bool = False
    near: bytes = b""


class Scheduler:
    """Resources of one node and the requests that wait for them.

    ``row`` is this node's row in the node table: its ``available`` is this scheduler's own.
    """

    def __init__(
        self, row: NodeInfo, generator: random.Random, devices: Devices | None = None
    ) -> None:
        self.node = ResourceSet(row.total, devices)
        row.available = self.node.available
        self._row = row
        self._generator = generator
        self._waiting: deque[LeaseRequest] = deque()
        self._turn = 0
        row.bundles = []
        self._bundles: dict[tuple[bytes, int], tuple[Allocation, ResourceSet]] = {}

    # --- bundles --------------------

    def reserve(self, group_id: bytes, bundles: Mapping[int, Mapping[str, int]]) -> bool:
        """Take these bundles of a group, all or none; those that are here already stay."""
        taken: dict[int, Allocation] = {}
        for index, resources in bundles.items():
            if (group_id, index) in self._bundles:
                continue
            found = self.node.take(resources)
            if found is None:
                for allocation in taken.values():
                    allocation.free()
                return False
            taken[index] = found
        for index, allocation in taken.items():
            inner = allocation.as_set()
            self._bundles[(group_id, index)] = (allocation, inner)
            self._row.bundles.append(BundleInfo(group_id, index, inner.total, inner.available))
        return True

    def commit(self, group_id: bytes, index: int) -> None:
        """Let a bundle be used, if it is here."""
        for bundle in self._row.bundles:
            if (bundle.group_id, bundle.index) == (group_id, index):
                bundle.committed = True

    def release(self, group_id: bytes, index: int) -> ResourceSet | None:
        """Give a bundle back; the set of which things may still be in use, if it was here."""
        found = self._bundles.pop((group_id, index), None)
        if found is None:
            return None
        allocation, inner = found
        self._row.bundles[:] = [
            b for b in self._row.bundles if (b.group_id, b.index) != (group_id, index)
        ]
        allocation.free()
        inner.retired = True
        return inner

    def _take(self, demand: Demand) -> Allocation | None:
        strategy = demand.strategy
        if not isinstance(strategy, InGroup):
            return self.node.take(demand.resources) if may_run(demand, self._row) else None
        for bundle in bundles_of(strategy, self._row):
            taken = self._bundles[(bundle.group_id, bundle.index)][1].take(demand.resources)
            if taken is not None:
                return taken
        return None

    # --- requests --------------------

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def place(self, request: LeaseRequest, others: Sequence[NodeInfo]) -> Choice:
        """Where a new request goes. It is not queued yet; a node that was chosen is charged."""
        if isinstance(request.demand.strategy, Spread):
            self._turn += 1
        choice = self._choose(request, others)
        return self._charged(request, choice)

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

    def advance(self, key: object) -> None:
        """Put a waiting request before all others: it is its turn."""
        for request in self._waiting:
            if request.key is key:
                self._waiting.remove(request)
                self._waiting.appendleft(request)
                return

    def grant(self) -> list[tuple[LeaseRequest, Allocation]]:
        """The requests that are served now, with what was taken for them."""
        granted: list[tuple[LeaseRequest, Allocation]] = []
        passed: list[Demand] = []
        for request in list(self._waiting):
            demand = request.demand
            if demand in passed:
                continue
            taken = self._take(demand)
            if taken is None:
                passed.append(demand)
            else:
                self._waiting.remove(request)
                granted.append((request, taken))
        return granted

    def move(
        self, others: Sequence[NodeInfo]
    ) -> tuple[list[tuple[LeaseRequest, Choice]], list[LeaseRequest]]:
        """Take out the waiting requests that go elsewhere, or that must fail by now.

        What they need is subtracted from the rows, so that a burst does not go to one node.
        Also returns the requests that no node could ever serve, which go on waiting.
        """
        moved: list[tuple[LeaseRequest, Choice]] = []
        infeasible: list[LeaseRequest] = []
        for request in [request for request in self._waiting if request.movable]:
            choice = self._charged(request, self._choose(request, others))
            if choice.node is not None or choice.verdict is Verdict.UNSCHEDULABLE:
                self._waiting.remove(request)
                moved.append((request, choice))
            elif choice.verdict is Verdict.INFEASIBLE:
                infeasible.append(request)
        return moved, infeasible

    def _choose(self, request: LeaseRequest, others: Sequence[NodeInfo]) -> Choice:
        """The policy's choice, with ``node`` only if the request goes to another node."""
        demand, row = request.demand, self._row
        choice = choose(
            demand, [row, *others], request.near or row.node_id, self._generator, self._turn
        )
        stays = choice.verdict is Verdict.LATER and self.serves(demand)
        if choice.node is row or stays:
            return Choice(choice.verdict)
        return choice

    def serves(self, demand: Demand) -> bool:
        """Whether this node could ever serve a demand."""
        return could_hold(demand, self._row) and may_run(demand, self._row)

    @staticmethod
    def _charged(request: LeaseRequest, choice: Choice) -> Choice:
        if choice.node is not None:
            charge(request.demand, choice.node)
        return choice
