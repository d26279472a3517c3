"""What is pure about resources: sets that hand out and take back, bundles that find their nodes."""

from __future__ import annotations

import itertools
import random

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.common.resources import UNIT, fits
from nbray.raylet.workers.node_resources import NodeResources
from nbray.raylet.workers.pending import PendingRequest
from nbray.raylet.workers.resource_set import Allocation, ResourceSet
from nbray.raylet.workers.scheduler import Scheduler
from nbray.scheduling.bundles import Bundle, place
from nbray.scheduling.explain import why_group_pending
from nbray.scheduling.labels import parse_selector
from nbray.scheduling.policy import Demand
from nbray.wire.records import NodeInfo
from nbray.wire.strategies import ANYWHERE, STRATEGIES, InGroup

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=5)


def node(name: str, cpus: int, labels: dict[str, str] | None = None) -> NodeInfo:
    total = {"CPU": cpus * UNIT}
    return NodeInfo(
        name.encode(), name, 1, 2, name, False, True, total, dict(total), labels=labels or {}
    )


def bundles(*cpus: int) -> dict[int, Bundle]:
    return {index: Bundle({"CPU": n * UNIT}) for index, n in enumerate(cpus)}


def placed(strategy: str, sizes: list[int], nodes: list[NodeInfo]) -> list[str] | None:
    found = place(bundles(*sizes), strategy, nodes)
    return None if found is None else [found[i].decode() for i in range(len(sizes))]


@given(SIZES, st.lists(st.integers(0, 8), min_size=1, max_size=4), st.sampled_from(STRATEGIES))
def test_a_placement_fits_and_keeps_its_strategy(
    sizes: list[int], cpus: list[int], strategy: str
) -> None:
    nodes = [node(chr(97 + i), n) for i, n in enumerate(cpus)]
    found = placed(strategy, sizes, nodes)
    if found is None:
        return
    for row in nodes:
        used = sum(size for size, where in zip(sizes, found, strict=True) if where == row.host)
        assert used * UNIT <= row.available["CPU"]
    if strategy == "STRICT_PACK":
        assert len(set(found)) == 1
    if strategy == "STRICT_SPREAD":
        assert len(set(found)) == len(found)


@given(SIZES, st.lists(st.integers(0, 8), min_size=1, max_size=4))
def test_a_strict_placement_is_found_whenever_there_is_one(
    sizes: list[int], cpus: list[int]
) -> None:
    nodes = [node(chr(97 + i), n) for i, n in enumerate(cpus)]
    assert (placed("STRICT_PACK", sizes, nodes) is not None) == any(sum(sizes) <= n for n in cpus)
    spread = any(
        all(size <= n for size, n in zip(sizes, chosen, strict=True))
        for chosen in itertools.permutations(cpus, len(sizes))
    )
    assert (placed("STRICT_SPREAD", sizes, nodes) is not None) == spread


def test_pack_takes_few_nodes_and_spread_takes_many() -> None:
    nodes = [node("a", 2), node("b", 4), node("c", 4)]
    assert placed("PACK", [1, 1, 1, 1], nodes) in (["b"] * 4, ["c"] * 4)
    found = placed("SPREAD", [1, 1, 1], nodes)
    assert found is not None and len(set(found)) == 3
    assert placed("SPREAD", [1] * 10, nodes) is not None
    assert placed("PACK", [3, 3, 2, 2], [node("a", 5), node("b", 5)]) is not None


def test_bundles_keep_to_labels_to_the_rest_of_their_group_and_to_a_soft_target() -> None:
    nodes = [node("a", 2, {"zone": "x"}), node("b", 2, {"zone": "y"})]
    there = Bundle({"CPU": UNIT}, parse_selector({"zone": "y"}))
    assert place({0: there}, "PACK", nodes) == {0: b"b"}
    assert place(bundles(1), "STRICT_SPREAD", nodes, elsewhere=[b"b"]) == {0: b"a"}
    for target in (b"a", b"b"):
        assert place(bundles(1), "STRICT_PACK", nodes, soft_target=target) == {0: target}


def test_a_pending_group_says_why() -> None:
    nodes = [node("a", 2), node("b", 2)]

    def why(strategy: str, *cpus: int) -> str:
        return why_group_pending(list(bundles(*cpus).values()), strategy, nodes)[0]

    assert "it is reserved soon" in why("PACK", 1, 1)
    assert "Bundle 1" in why("PACK", 1, 3) and "lacks {'CPU': 1.0}" in why("PACK", 1, 3)
    assert "All bundles of a STRICT_PACK" in why("STRICT_PACK", 2, 2)
    assert "needs a node of its own" in why("STRICT_SPREAD", 1, 1, 1)
    assert "but not all together" in why("PACK", 2, 2, 2)
    nodes[0].available["CPU"] = 0
    assert "what is free now does not suffice" in why("PACK", 2, 2)


class Resources(RuleBasedStateMachine):
    """Allocations, bundles and loans in any order: nothing is lost, nothing given twice."""

    def __init__(self) -> None:
        super().__init__()
        devices = {"GPU": {str(i): UNIT for i in range(3)}}
        self.node = ResourceSet({"CPU": 4 * UNIT, "GPU": 3 * UNIT}, devices)
        self.bundles: list[tuple[Allocation, ResourceSet]] = []
        self.taken: list[Allocation] = []

    def _sets(self) -> list[ResourceSet]:
        return [self.node, *(found for _, found in self.bundles)]

    @rule(which=st.integers(0, 9), cpus=st.integers(0, 8), gpus=st.integers(0, 8))
    def take(self, which: int, cpus: int, gpus: int) -> None:
        sets = self._sets()
        source = sets[which % len(sets)]
        demand = {"CPU": cpus * UNIT // 4, "GPU": gpus * UNIT // 4}
        room = fits(demand, source.available)
        taken = source.take(demand)
        if taken is None:
            assert not room or demand["GPU"]  # devices may be in pieces
            return
        assert room
        assert sum(taken.devices.get("GPU", {}).values()) == demand["GPU"]
        self.taken.append(taken)

    @rule(cpus=st.integers(1, 4), gpus=st.integers(0, 2))
    def reserve(self, cpus: int, gpus: int) -> None:
        taken = self.node.take({"CPU": cpus * UNIT, "GPU": gpus * UNIT})
        if taken is not None:
            self.bundles.append((taken, taken.as_set()))

    @precondition(lambda self: self.bundles)
    @rule(which=st.integers(0, 9))
    def release_bundle_in_use_or_not(self, which: int) -> None:
        taken, source = self.bundles.pop(which % len(self.bundles))
        taken.free()
        for inner in [a for a in self.taken if a.source is source]:
            self.taken.remove(inner)
            inner.free()

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 9))
    def free(self, which: int) -> None:
        taken = self.taken.pop(which % len(self.taken))
        taken.free()
        taken.free()

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 9), back=st.booleans())
    def lend(self, which: int, back: bool) -> None:
        taken = self.taken[which % len(self.taken)]
        taken.lend()
        if back:
            taken.take_back()

    @invariant()
    def no_device_is_given_twice_and_none_is_lost(self) -> None:
        for source in self._sets():
            held = [a for a in self.taken if a.source is source]
            if source is self.node:
                held += [a for a, _ in self.bundles]
            used = sum(a.amounts.get("GPU", 0) for a in held)
            assert source.available.get("GPU", 0) + used == source.total.get("GPU", 0)
            for device in "012":
                assert sum(a.devices.get("GPU", {}).get(device, 0) for a in held) <= UNIT

    def teardown(self) -> None:
        for taken in [*self.taken, *(a for a, _ in self.bundles)]:
            taken.free()
        assert self.node.available == self.node.total


TestResources = Resources.TestCase
TestResources.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class Groups(RuleBasedStateMachine):
    """Bundles, and what runs in and beside them, by a node's scheduler: all is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.row = node("a", 4)
        self.resources = NodeResources(self.row)
        self.scheduler = Scheduler(self.resources, random.Random(0))
        self.held: dict[int, set[int]] = {}
        self.granted: list[Allocation] = []
        self.asked = 0

    @rule(group=st.integers(0, 3), sizes=SIZES)
    def reserve(self, group: int, sizes: list[int]) -> None:
        missing = set(range(len(sizes))) - self.held.get(group, set())
        need = sum(sizes[i] for i in missing) * UNIT
        room = need <= self.resources.node.available["CPU"]
        found = self.resources.reserve(
            str(group).encode(), {i: {"CPU": n * UNIT} for i, n in enumerate(sizes)}
        )
        assert found == room
        if found:
            self.held.setdefault(group, set()).update(missing)

    @rule(group=st.integers(0, 3), index=st.integers(0, 4))
    def commit(self, group: int, index: int) -> None:
        self.resources.commit(str(group).encode(), index)

    @rule(group=st.integers(0, 3), index=st.integers(0, 4))
    def release(self, group: int, index: int) -> None:
        found = self.resources.release([(str(group).encode(), index)])
        assert len(found) == (index in self.held.get(group, set()))
        self.held.get(group, set()).discard(index)
        assert self.resources.release([(str(group).encode(), index)]) == []
        assert not any(b.index == index for b in self.resources.shown({str(group).encode()}))

    @rule(group=st.integers(-1, 3), index=st.integers(-1, 4), cpus=st.integers(0, 3))
    def ask(self, group: int, index: int, cpus: int) -> None:
        strategy = InGroup(str(group).encode(), index) if group >= 0 else ANYWHERE
        self.asked += 1
        self.scheduler.enqueue(PendingRequest(self.asked, Demand({"CPU": cpus * UNIT}, strategy)))

    @rule()
    def grant(self) -> None:
        for request, taken in self.scheduler.grant():
            if isinstance(request.demand.strategy, InGroup):
                assert taken.source is not self.resources.node and not taken.source.retired
            self.granted.append(taken)

    @precondition(lambda self: self.granted)
    @rule(which=st.integers(0, 9))
    def end(self, which: int) -> None:
        self.granted.pop(which % len(self.granted)).free()

    @invariant()
    def nothing_is_negative_or_lost(self) -> None:
        beside = [a for a in self.granted if a.source is self.resources.node]
        used = sum(a.amounts.get("CPU", 0) for a in beside)
        reserved = sum(bundle.total["CPU"] for bundle in self.row.bundles)
        assert self.row.available["CPU"] + used + reserved == self.row.total["CPU"]
        assert self.row.available["CPU"] >= 0
        assert all(0 <= b.available["CPU"] <= b.total["CPU"] for b in self.row.bundles)

    def teardown(self) -> None:
        for group, indices in self.held.items():
            self.resources.release([(str(group).encode(), index) for index in indices])
        for taken in self.granted:
            taken.free()
        assert self.row.available == self.row.total and not self.row.bundles


TestGroups = Groups.TestCase
TestGroups.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
