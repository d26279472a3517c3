"""The decisions of the scheduler, without processes: which node, and what is said meanwhile."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.calls.options import check_options, selector_of, strategy_of
from nbray.common.resources import UNIT, to_units
from nbray.raylet.workers.node_resources import NodeResources
from nbray.raylet.workers.pending import Infeasible, Moved, PendingRequest
from nbray.raylet.workers.scheduler import Scheduler
from nbray.scheduling.explain import infeasible_text, why_pending
from nbray.scheduling.labels import matches, parse_node_labels, parse_selector
from nbray.scheduling.policy import Choice, Demand, Verdict, choose, may_run
from nbray.util.scheduling_strategies import (
    DoesNotExist,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)
from nbray.wire.records import BundleInfo, NodeInfo
from nbray.wire.strategies import ANYWHERE, InGroup, Labelled, LabelTerm, OnNode, Spread, Strategy


def node(
    name: str,
    total: dict[str, float],
    available: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
) -> NodeInfo:
    free = total if available is None else available
    return NodeInfo(
        name.encode(), name, 1, 2, name, False, True, to_units(total), to_units(free),
        labels=labels or {},
    )  # fmt: skip


def demand(resources: dict[str, float], strategy: Strategy = ANYWHERE) -> Demand:
    return Demand(to_units(resources), strategy)


def chosen(wish: Demand, nodes: list[NodeInfo], here: str = "a", turn: int = 0) -> str:
    choice = choose(wish, nodes, here.encode(), random.Random(0), turn)
    return choice.node.host if choice.node is not None else choice.verdict.value


def test_nodes_are_packed_to_one_half_from_the_asking_one_on_and_then_used_evenly() -> None:
    nodes = [node(name, {"CPU": 8}) for name in "abc"]
    used = {"a": 0, "b": 0, "c": 0}
    for _ in range(12):
        where = chosen(demand({"CPU": 1}), nodes)
        used[where] += 1
        row = next(n for n in nodes if n.host == where)
        row.available["CPU"] -= 10_000
    assert used == {"a": 4, "b": 4, "c": 4}


def test_work_without_gpu_leaves_the_nodes_with_gpus_alone_while_it_can() -> None:
    gpus, plain = node("a", {"CPU": 2, "GPU": 1}), node("b", {"CPU": 2})
    assert chosen(demand({"CPU": 1}), [gpus, plain]) == "b"
    assert chosen(demand({"CPU": 1, "GPU": 1}), [gpus, plain]) == "a"
    plain.available.clear()
    assert chosen(demand({"CPU": 1}), [gpus, plain]) == "a"


def test_the_node_of_the_arguments_goes_first_as_long_as_it_has_room() -> None:
    nodes = [node("a", {"CPU": 4}), node("b", {"CPU": 4}, {"CPU": 1}), node("c", {"CPU": 4})]
    wish = demand({"CPU": 1})

    def near(*rows: NodeInfo) -> bytes:
        found = choose(wish, rows, b"a", random.Random(0), near=b"b").node
        assert found is not None
        return found.node_id

    assert near(*nodes) == b"b", "although it is used more than half"
    nodes[1].available = {}
    assert near(*nodes) == b"a"


def test_where_it_fits_now_goes_before_where_it_could_and_none_is_infeasible() -> None:
    busy, idle = node("a", {"CPU": 8}, {"CPU": 0}), node("b", {"CPU": 1})
    assert chosen(demand({"CPU": 1}), [busy, idle]) == "b"
    assert chosen(demand({"CPU": 4}), [busy, idle]) == "a"
    assert chosen(demand({"CPU": 9}), [busy, idle]) == "infeasible"
    busy.alive = False
    assert chosen(demand({"CPU": 4}), [busy, idle]) == "infeasible"


def test_spread_takes_the_nodes_in_turn_and_passes_over_full_ones() -> None:
    nodes = [node(name, {"CPU": 4}) for name in "abc"]
    wish = demand({"CPU": 1}, Spread())
    assert [chosen(wish, nodes, turn=turn) for turn in range(4)] == ["a", "b", "c", "a"]
    nodes[1].available.clear()
    assert [chosen(wish, nodes, turn=turn) for turn in range(3)] == ["a", "c", "c"]


def test_affinity_waits_for_its_node_and_only_a_soft_one_goes_elsewhere() -> None:
    a, b = node("a", {"CPU": 1}), node("b", {"CPU": 1}, {"CPU": 0})
    for soft in (False, True):
        waits = choose(demand({"CPU": 1}, OnNode(b"b", soft)), [a, b], b"a", random.Random(0))
        assert waits == Choice(Verdict.LATER, b)
        big = demand({"CPU": 2}, OnNode(b"b", soft))
        assert chosen(big, [a, b]) == ("infeasible" if soft else "unschedulable")
    assert chosen(demand({"CPU": 1}, OnNode(b"gone", True)), [a, b]) == "a"
    assert chosen(demand({"CPU": 1}, OnNode(b"gone")), [a, b]) == "unschedulable"
    now = OnNode(b"b", fail_on_unavailable=True)
    assert chosen(demand({"CPU": 1}, now), [a, b]) == "unschedulable"
    assert chosen(demand({"CPU": 1}, OnNode(b"b", True, spill_on_unavailable=True)), [a, b]) == "a"


def test_labels_are_met_and_soft_ones_preferred() -> None:
    nodes = [
        node("a", {"CPU": 1}, labels={"zone": "x"}),
        node("b", {"CPU": 1}, labels={"zone": "y", "disk": "ssd"}),
    ]
    hard = Labelled((LabelTerm("zone", "in", ("y", "z")),))
    assert chosen(demand({"CPU": 1}, hard), nodes) == "b"
    soft = Labelled((), (LabelTerm("disk", "exists"),))
    assert chosen(demand({"CPU": 1}, soft), nodes) == "b"
    nodes[1].available.clear()
    assert chosen(demand({"CPU": 1}, soft), nodes) == "a"
    assert chosen(
        Demand(to_units({"CPU": 1}), ANYWHERE, (parse_selector({"zone": "q"}),)), nodes
    ) == ("infeasible")


def test_a_fallback_counts_when_nothing_before_it_has_room() -> None:
    nodes = [
        node("a", {"CPU": 1}, labels={"zone": "x"}), node("b", {"CPU": 1}, labels={"zone": "y"}),
        node("c", {"CPU": 1}),
    ]  # fmt: skip
    zones = [parse_selector({"zone": zone}) for zone in ("x", "mars", "y")]
    wish = Demand(to_units({"CPU": 1}), ANYWHERE, tuple(zones))
    assert chosen(wish, nodes) == "a"
    nodes[0].available.clear()
    assert chosen(wish, nodes) == "b"
    nodes[1].available.clear()  # what could be met first is waited for; any of them may run it
    waiting = choose(wish, nodes, b"c", random.Random(0))
    assert (waiting.verdict, waiting.node) == (Verdict.LATER, nodes[0])
    assert [may_run(wish, n) for n in nodes] == [True, True, False]
    nodes[:2] = []
    assert chosen(wish, nodes) == "infeasible"
    anywhere = Demand(to_units({"CPU": 1}), ANYWHERE, (zones[1], ()))
    assert chosen(anywhere, nodes) == "c"
    text = infeasible_text(wish, nodes)
    assert "with labels zone=x, or with labels zone=mars, or with labels zone=y" in text


@pytest.mark.parametrize(
    ("condition", "met"),
    [("a", "a"), ("!a", "bc-"), ("in(a, b)", "ab"), ("!in(a,b)", "c-"), ("!in(a)", "bc-")],
)
def test_selectors_mean_what_ray_documents(condition: str, met: str) -> None:
    terms = parse_selector({"k": condition})
    for value in "abc-":
        labels = {} if value == "-" else {"k": value}
        assert matches(terms, labels) == (value in met), value


@pytest.mark.parametrize("condition", ["in()", "-a", "a_", "in(a", "!!a", "in(a,!b)", "x y"])
def test_malformed_selectors_are_refused(condition: str) -> None:
    with pytest.raises(ValueError, match="Invalid label selector value"):
        parse_selector({"k": condition})


def test_node_labels_come_as_json_or_pairs_and_reserved_keys_are_refused() -> None:
    assert parse_node_labels('{"a": "b"}') == parse_node_labels("a=b") == {"a": "b"}
    assert parse_node_labels("") == {}
    with pytest.raises(ValueError, match="cannot start with the prefix"):
        parse_node_labels("ray.io/node-id=1")
    with pytest.raises(ValueError, match="key-value pair"):
        parse_node_labels("a")
    with pytest.raises(ValueError, match="Invalid label key"):
        parse_node_labels("/a=b")


def test_what_is_in_a_placement_group_goes_where_a_bundle_has_room() -> None:
    nodes = [node(name, {"CPU": 9}) for name in "abc"]
    assert chosen(demand({"CPU": 1}, InGroup(b"g")), nodes) == "infeasible"
    one = {"CPU": UNIT}
    nodes[0].bundles = [BundleInfo(b"g", 2, one, dict(one))]
    assert chosen(demand({"CPU": 1}, InGroup(b"g")), nodes) == "infeasible"  # not committed
    nodes[1].bundles = [BundleInfo(b"g", 0, one, {"CPU": 0}, True)]
    assert chosen(demand({"CPU": 1}, InGroup(b"g")), nodes) == "b"
    nodes[2].bundles = [BundleInfo(b"g", 1, one, dict(one), True)]
    assert chosen(demand({"CPU": 1}, InGroup(b"g")), nodes) == "c"
    assert chosen(demand({"CPU": 1}, InGroup(b"g", 0)), nodes) == "b"
    assert chosen(demand({"CPU": 2}, InGroup(b"g")), nodes) == "infeasible"


# --- the scheduler of one node --------------------


def scheduler(here: dict[str, float], *demands: dict[str, float]) -> Scheduler:
    """A scheduler that has granted what fits of the ``demands`` and holds the rest."""
    found = empty(here)
    for number, resources in enumerate(demands):
        found.enqueue(movable(number, demand(resources)))
    found.grant()
    return found


def empty(here: dict[str, float]) -> Scheduler:
    return Scheduler(NodeResources(node("here", here)), random.Random(0))


def movable(number: int, demand: Demand) -> PendingRequest:
    return PendingRequest(number, demand, on_moved=lambda choice: None)


def moved(scheduler: Scheduler, *nodes: NodeInfo) -> list[tuple[object, str]]:
    return [
        (decision.request.asker, decision.choice.node.host)
        for decision in scheduler.move(nodes)
        if isinstance(decision, Moved) and decision.choice.node is not None
    ]


def test_what_has_to_wait_goes_where_it_fits_now() -> None:
    waits = scheduler({"CPU": 1}, {"CPU": 1}, {"CPU": 1})
    full, idle = node("full", {"CPU": 64}, {"CPU": 0}), node("idle", {"CPU": 4})
    assert moved(waits, full, idle) == [(1, "idle")]
    assert waits.waiting == 0


def test_a_burst_does_not_go_to_one_node() -> None:
    waits = scheduler({"CPU": 1}, *[{"CPU": 1}] * 6)
    spilled = moved(waits, *[node(name, {"CPU": 2}) for name in "ab"])
    assert sorted(host for _, host in spilled) == ["a", "a", "b", "b"]
    assert waits.waiting == 1


def test_what_never_fits_here_goes_where_it_could_and_else_waits() -> None:
    waits = scheduler({"CPU": 1}, {"GPU": 1}, {"CPU": 1}, {"CPU": 1}, {"TPU": 1})
    assert moved(waits, node("gpu", {"GPU": 1}, {"GPU": 0})) == [(0, "gpu")]
    assert waits.waiting == 2
    ((waiting,),) = waits.move([])
    assert waiting.asker == 3 and isinstance(waits.move([])[0], Infeasible)


def test_what_may_not_move_waits() -> None:
    waits = empty({})
    waits.enqueue(PendingRequest("actor", demand({"CPU": 1})))
    assert moved(waits, node("idle", {"CPU": 4})) == []
    assert waits.waiting == 1


def test_what_may_not_run_here_is_not_granted_here_although_it_fits() -> None:
    waits = empty({"CPU": 4})
    waits.enqueue(movable(0, demand({"CPU": 1}, OnNode(b"there"))))
    selector = (parse_selector({"zone": "x"}),)
    waits.enqueue(movable(1, Demand(to_units({"CPU": 1}), ANYWHERE, selector)))
    assert waits.grant() == []
    there = node("there", {"CPU": 1}, {"CPU": 0}, {"zone": "x"})
    assert moved(waits, there) == [(0, "there"), (1, "there")]


# --- sentences --------------------


def test_an_infeasible_request_names_the_nearest_node_and_what_it_lacks() -> None:
    nodes = [node("none", {}), node("near", {"CPU": 2, "GPU": 1}, {})]
    text = infeasible_text(demand({"CPU": 8, "GPU": 1}), nodes)
    assert "on near" in text
    assert "lacks {'CPU': 6.0}" in text
    labelled = Demand(to_units({"CPU": 1}), ANYWHERE, (parse_selector({"zone": "!x"}),))
    text = infeasible_text(labelled, [node("near", {"CPU": 2}, labels={"zone": "x"})])
    assert "{'CPU': 1.0} with labels zone!=x" in text
    assert "lacks labels zone!=x" in text


def test_only_a_node_that_lacks_something_is_said_to_lack_it() -> None:
    wish, small, fits = demand({"CPU": 4}), node("small", {"CPU": 1}), node("fits", {"CPU": 4})
    leaving = msgspec.structs.replace(fits, draining=True)
    assert "on small, which lacks {'CPU': 3.0}." in infeasible_text(wish, [leaving, small])
    assert infeasible_text(wish, [leaving]) == "No node takes work any more to serve {'CPU': 4.0}."
    dead = msgspec.structs.replace(fits, alive=False)
    assert infeasible_text(wish, [dead]) == "No node is alive to serve {'CPU': 4.0}."
    text = infeasible_text(wish, [small, fits])
    assert "on fits can serve {'CPU': 4.0}" in text and "lacks" not in text


def test_a_pending_request_says_which_nodes_could_serve_it_and_what_they_lack_now() -> None:
    nodes = [node("small", {"CPU": 1}), node("big", {"CPU": 4}, {"CPU": 1})]
    (sentence,) = why_pending(demand({"CPU": 3}), nodes)
    assert "on big could serve {'CPU': 3.0}, but lacks {'CPU': 2.0} now" in sentence
    assert "starts soon" in why_pending(demand({"CPU": 1}), nodes)[0]
    assert "ever serve" in why_pending(demand({"CPU": 9}), nodes)[0]


# --- options --------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NodeAffinitySchedulingStrategy("xy", False), "Invalid node_id 'xy'"),
        (lambda: NodeAffinitySchedulingStrategy("ab" * 28, False, True), "_spill_on_unavailable"),
        (lambda: NodeLabelSchedulingStrategy({}), "cannot both be empty"),
        (lambda: NodeLabelSchedulingStrategy({"a": "b"}), "must be one of the `In`"),
        (lambda: In(), "must be a non-empty tuple"),
        (lambda: NotIn(1), "but got 1 of type"),
        (lambda: strategy_of({"scheduling_strategy": "FAST"}), "Invalid scheduling_strategy value"),
    ],
)
def test_impossible_strategies_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_options_become_strategies() -> None:
    assert strategy_of({}) == strategy_of({"scheduling_strategy": "DEFAULT"}) == ANYWHERE
    assert strategy_of({"scheduling_strategy": "SPREAD"}) == Spread()
    none = NodeLabelSchedulingStrategy({"a": DoesNotExist()})
    assert strategy_of({"scheduling_strategy": none}) == Labelled((LabelTerm("a", "!exists"),))
    assert selector_of({"label_selector": {"a": "b"}}) == ((LabelTerm("a", "in", ("b",)),),)
    others = [{"label_selector": {"c": "!d"}}, {"label_selector": {}}]
    assert selector_of({"fallback_strategy": others}) == (
        (), (LabelTerm("c", "!in", ("d",)),), (),
    )  # fmt: skip
    for wrong in (
        [1],
        [{}],
        [{"num_cpus": 1}],
        [{"label_selector": 3}],
        3,
        [{"label_selector": {"": ""}}],
    ):
        with pytest.raises((ValueError, TypeError)):
            check_options({"fallback_strategy": wrong}, actor=False)
    with pytest.raises(TypeError, match="The type of keyword 'scheduling_strategy' must be"):
        check_options({"scheduling_strategy": 7}, actor=False)


@given(st.lists(st.integers(1, 4), max_size=30))
def test_no_more_is_granted_than_there_is(cpus: list[int]) -> None:
    resources = NodeResources(node("here", {"CPU": 4}))
    requests = Scheduler(resources, random.Random(0))
    for number, count in enumerate(cpus):
        requests.enqueue(PendingRequest(number, demand({"CPU": count})))
    served = 0
    while requests.waiting:
        granted = requests.grant()
        assert granted, "a feasible request waits on an idle node"
        assert sum(taken.amounts["CPU"] for _, taken in granted) <= 40_000
        served += len(granted)
        for _, taken in granted:
            taken.free()
    assert served == len(cpus)
    assert resources.node.available == to_units({"CPU": 4})
