"""Who gets the node's resources, and who is sent to another node: pure decisions.

Requests are served first come first served per shape; one may pass an earlier one of another
shape, until that is *overdue*: then what it needs and does not find is kept for it as it becomes
free, and so is what a placement group needs that has waited for long (`keep_room`). Where a
request goes at first is the policy's choice (`nbray.scheduling.policy`). One that waits here moves
when the policy finds a node where it fits now, or when it could never run here.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbray.common.resources import fits, total_of
from nbray.raylet.workers.resource_set import Allocation, Devices, ResourceSet
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
        overdue: others may no longer pass it.
    """

    key: object
    demand: Demand
    movable: bool = False
    near: bytes = b""
    overdue: bool = False


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
        self._kept: dict[bytes, tuple[Mapping[int, Mapping[str, int]], float]] = {}

    # --- bundles --------------------

    def reserve(self, group_id: bytes, bundles: Mapping[int, Mapping[str, int]]) -> bool:
        """Take these bundles of a group, all or none; those that are here already stay."""
        taken: dict[int, Allocation] = {}
        kept = self._kept_room(group_id)
        for index, resources in bundles.items():
            if (group_id, index) in self._bundles:
                continue
            found = self._take_beside(kept, resources)
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

    def keep_room(
        self, group_id: bytes, bundles: Mapping[int, Mapping[str, int]], until: float
    ) -> None:
        """Keep what becomes free for those of these bundles that are not reserved, until then."""
        self._kept[group_id] = bundles, until

    def forget_room(self, now: float) -> bool:
        """End what was kept long enough; whether there was any."""
        over = [group_id for group_id, (_, until) in self._kept.items() if until <= now]
        for group_id in over:
            del self._kept[group_id]
        return bool(over)

    def _kept_room(self, besides: bytes = b"") -> dict[str, int]:
        return total_of(
            resources
            for group_id, (bundles, _) in self._kept.items()
            for index, resources in bundles.items()
            if group_id != besides and (group_id, index) not in self._bundles
        )

    def _take_beside(
        self, kept: Mapping[str, int], resources: Mapping[str, int]
    ) -> Allocation | None:
        """Take resources of the node if what is kept for others remains."""
        if kept and resources:
            both = total_of([resources, {n: kept[n] for n in resources if n in kept}])
            if not fits(both, self.node.available):
                return None
        return self.node.take(resources)

    def lacking(self) -> dict[str, int]:
        """What is missing on this node for all that room is kept for."""
        wanted = [self._kept_room()]
        wanted += [dict(r.demand.resources) for r in self._waiting if r.overdue]
        free = self.node.available
        return {
            name: amount - free.get(name, 0)
            for name, amount in total_of(wanted).items()
            if amount > free.get(name, 0)
        }

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

    def _take(self, demand: Demand, kept: Mapping[str, int]) -> Allocation | None:
        strategy = demand.strategy
        if not isinstance(strategy, InGroup):
            if not may_run(demand, self._row):
                return None
            return self._take_beside(kept, demand.resources)
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
        kept = self._kept_room()
        for request in list(self._waiting):
            demand = request.demand
            if demand in passed:
                continue
            taken = self._take(demand, kept)
            if taken is None:
                passed.append(demand)
                if request.overdue:
                    kept = total_of([kept, demand.resources])
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
            demand, [row, *others], row.node_id, self._generator, self._turn, request.near
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
