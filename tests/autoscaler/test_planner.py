"""What is launched and drained: properties that hold for every cluster and every demand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.autoscaler import huge
from nbray.autoscaler.model import Ask, GroupAsk, Here, Plan, Rules, TypeRules, Wanted
from nbray.autoscaler.planner import plan
from nbray.common.resources import fits
from nbray.scheduling.bundles import Bundle
from nbray.scheduling.labels import matches
from nbray.wire.strategies import GroupStrategy, LabelTerm

CPU = 10_000
SMALL = TypeRules("small", {"CPU": 2 * CPU}, {"zone": "a"}, 0, 4, 60.0)
NOW = 1_000_000.0


def node(name: str, free: int = 2, kind: str = "small", **more: object) -> Here:
    kept = () if free == 2 else ("1 worker leased for tasks",)
    here = Here(name, kind, {"CPU": 2 * CPU}, {"CPU": free * CPU}, {"zone": "a"}, kept_by=kept)
    return replace(here, **more)


def rules(*types: TypeRules, most: int = 100) -> Rules:
    return Rules({one.name: one for one in types or (SMALL,)}, most)


def launched(made: Plan) -> dict[str, int]:
    return {one.type: one.count for one in made.launch}


def drained(made: Plan) -> list[str]:
    return [one.id for one in made.drain]


# --- examples --------------------


def test_what_waits_is_packed_on_as_few_nodes_as_hold_it() -> None:
    made = plan(rules(), [], Wanted([Ask({"CPU": CPU}, 5)]), NOW)
    assert launched(made) == {"small": 3}


def test_nodes_on_their_way_count_and_so_nothing_is_counted_twice() -> None:
    coming = [node(f"n{n}", joined=False) for n in range(3)]
    made = plan(rules(), coming, Wanted([Ask({"CPU": CPU}, 5)]), NOW)
    assert launched(made) == {} and drained(made) == []


def test_a_shape_that_no_type_has_launches_nothing_and_is_told() -> None:
    made = plan(rules(), [], Wanted([Ask({"GPU": CPU}, 1)]), NOW)
    assert launched(made) == {}
    assert made.unmet == ("1 x {'GPU': 1.0}: no node type of the file can serve it.",)


def test_nodes_of_the_first_choice_come_before_others_that_would_do() -> None:
    others = replace(SMALL, name="others", resources={"CPU": CPU})
    first = replace(SMALL, name="preferred", labels={}, most=1)
    selectors = ((LabelTerm("zone", "!in", ("a",)),), ())
    made = plan(rules(others, first), [], Wanted([Ask({"CPU": CPU}, 3, selectors)]), NOW)
    assert launched(made) == {"preferred": 1, "others": 1}


def test_there_are_never_fewer_than_the_least_and_idle_ones_beyond_leave() -> None:
    keeps = replace(SMALL, least=2)
    assert launched(plan(rules(keeps), [], Wanted(), NOW)) == {"small": 2}
    idle = [node(f"n{n}", idle_s=100.0 + n) for n in range(3)]
    made = plan(rules(keeps), idle, Wanted(), NOW)
    assert drained(made) == ["n2"], "the one that was idle for longest"
    assert made.kept_by["n0"] == ("min_workers of small is 2",)


def test_idle_nodes_that_a_waiting_group_would_use_stay_while_the_others_come() -> None:
    idle = [node(f"n{n}", idle_s=100.0) for n in range(2)]
    group = GroupAsk("g", "STRICT_SPREAD", (Bundle({"CPU": CPU}),) * 3)
    made = plan(rules(), idle, Wanted(groups=[group]), NOW)
    assert launched(made) == {"small": 1} and drained(made) == []


def test_a_group_that_can_never_be_placed_launches_nothing_of_it() -> None:
    group = GroupAsk("g", "STRICT_SPREAD", (Bundle({"CPU": CPU}),) * 5)
    made = plan(rules(), [], Wanted(groups=[group]), NOW)
    assert launched(made) == {} and "Placement group g" in made.unmet[0]


def test_a_strict_pack_group_gets_one_node_that_holds_all_of_it() -> None:
    large = TypeRules("large", {"CPU": 8 * CPU}, {}, 0, 4, 60.0)
    group = GroupAsk("g", "STRICT_PACK", (Bundle({"CPU": CPU}),) * 4)
    assert launched(plan(rules(SMALL, large), [], Wanted(groups=[group]), NOW)) == {"large": 1}


def test_requested_room_counts_what_is_in_use_and_keeps_idle_nodes() -> None:
    there = [node("busy", 0), node("idle", idle_s=100.0)]
    asked = Wanted(requested=[Ask({"CPU": CPU}, 4)])
    made = plan(rules(), there, asked, NOW)
    assert launched(made) == {} and drained(made) == []
    assert "request_resources asked for it" in made.kept_by["idle"]
    assert launched(plan(rules(), there, Wanted(requested=[Ask({"CPU": CPU}, 5)]), NOW)) == {
        "small": 1
    }


def test_gpu_nodes_are_for_what_needs_them_as_long_as_others_may_come() -> None:
    gpu = TypeRules("gpu", {"CPU": 2 * CPU, "GPU": CPU}, {}, 0, 4, 60.0)
    made = plan(rules(gpu, SMALL), [], Wanted([Ask({"CPU": CPU}, 2)]), NOW)
    assert launched(made) == {"small": 1}
    made = plan(rules(gpu, SMALL), [], Wanted([Ask({"CPU": CPU, "GPU": CPU}, 1)]), NOW)
    assert launched(made) == {"gpu": 1}


def test_a_label_selector_decides_the_type_and_its_first_alternative_goes_first() -> None:
    east = TypeRules("east", {"CPU": 2 * CPU}, {"zone": "b"}, 0, 4, 60.0)
    term = (LabelTerm("zone", "in", ("b",)),)
    made = plan(rules(SMALL, east), [], Wanted([Ask({"CPU": CPU}, 1, (term,))]), NOW)
    assert launched(made) == {"east": 1}


def test_a_type_whose_last_nodes_failed_waits_and_says_so() -> None:
    late = replace(SMALL, not_before=NOW + 5)
    made = plan(rules(late), [], Wanted([Ask({"CPU": CPU}, 1)]), NOW)
    assert launched(made) == {} and "failed; it is tried again" in made.unmet[0]
    assert launched(plan(rules(late), [], Wanted([Ask({"CPU": CPU}, 1)]), NOW + 6)) == {"small": 1}


def test_what_waits_grows_a_cluster_by_its_own_size_and_five_at_least() -> None:
    many = replace(SMALL, most=1000)
    wanted = Wanted([Ask({"CPU": 2 * CPU}, 500)])
    assert launched(plan(rules(many, most=1000), [], wanted, NOW)) == {"small": 5}
    running = [node(f"n{n}", 0) for n in range(20)]
    assert launched(plan(rules(many, most=1000), running, wanted, NOW)) == {"small": 20}
    coming = running + [node(f"c{n}", joined=False) for n in range(20)]
    assert launched(plan(rules(many, most=1000), coming, wanted, NOW)) == {}


def test_a_node_whose_place_ends_soon_is_drained_and_replaced() -> None:
    ends = [node("old", 1, ends=NOW + 60.0)]
    made = plan(rules(), ends, Wanted([Ask({"CPU": CPU}, 1)]), NOW)
    assert launched(made) == {"small": 1}
    (drain,) = made.drain
    assert drain.id == "old" and not drain.only_idle and 0 < drain.deadline_s < 60.0


def test_a_type_that_left_the_file_and_a_lower_maximum_drain_without_haste() -> None:
    there = [node("gone", 1, "old"), node("a", 1), node("b", 2), node("c", joined=False)]
    made = plan(rules(replace(SMALL, most=1)), there, Wanted(), NOW)
    assert sorted(drained(made)) == ["b", "c", "gone"]
    assert all(not one.only_idle and one.deadline_s == 0 for one in made.drain)


def test_a_machine_that_is_only_asked_for_is_given_back_when_nothing_wants_it() -> None:
    waits = node("w", joined=False, waits=True, idle_s=40.0)
    assert drained(plan(rules(), [waits], Wanted(), NOW)) == ["w"]
    assert drained(plan(rules(), [waits], Wanted([Ask({"CPU": CPU}, 1)]), NOW)) == []


def test_a_node_that_refused_to_leave_is_asked_again_later() -> None:
    owns = node("n", idle_s=100.0, may_drain=NOW + 5)
    assert drained(plan(rules(), [owns], Wanted(), NOW)) == []
    assert drained(plan(rules(), [owns], Wanted(), NOW + 6)) == ["n"]


# --- properties --------------------

AMOUNTS = st.sampled_from([5_000, CPU, 2 * CPU, 3 * CPU, 4 * CPU])
LABELS = st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])
SELECTORS = st.sampled_from(
    [(), ((LabelTerm("zone", "in", ("a",)),),), ((LabelTerm("zone", "!in", ("a",)),), ())]
)
SHAPES = st.fixed_dictionaries({"CPU": AMOUNTS}, optional={"GPU": st.just(CPU), "x": AMOUNTS})
ASKS = st.lists(st.builds(Ask, SHAPES, st.integers(1, 12), SELECTORS), max_size=6)
GROUPS = st.lists(
    st.builds(
        GroupAsk, st.just("g"), st.sampled_from(get_args(GroupStrategy)),
        st.lists(st.builds(Bundle, SHAPES), min_size=1, max_size=4).map(tuple),
    ),
    max_size=2,
)  # fmt: skip


IDLE = st.sampled_from([0.0, 100.0, 100.0])


@st.composite
def types(draw: st.DrawFn) -> list[TypeRules]:
    made = []
    for n in range(draw(st.integers(1, 3))):
        most = draw(st.integers(0, 6))
        made.append(
            TypeRules(
                f"t{n}", draw(SHAPES), draw(LABELS), draw(st.integers(0, most)), most,
                60.0, draw(st.integers(0, 1)), draw(st.sampled_from([0.0, 0.0, NOW + 9])),
            )
        )  # fmt: skip
    return made


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Rules, list[Here], Wanted]:
    kinds = draw(types())
    bounds = Rules({kind.name: kind for kind in kinds}, draw(st.integers(0, 12)))
    here = [Here("head", "", {"CPU": CPU}, draw(st.sampled_from([{}, {"CPU": CPU}])), {})]
    for n in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(kinds))
        joined = draw(st.booleans())
        share = draw(st.sampled_from([0, 0.5, 1])) if joined else 1
        free = {name: int(amount * share) for name, amount in kind.resources.items()}
        kept = ("a task",) if share < 1 else ()
        here.append(
            Here(
                f"n{n}", kind.name, kind.resources, free, kind.labels, joined,
                not joined and draw(st.booleans()), 0.0 if kept else draw(IDLE), kept,
                draw(st.sampled_from([False] * 5 + [True])),
            )
        )  # fmt: skip
    return bounds, here, Wanted(draw(ASKS), draw(GROUPS), draw(ASKS))


def after(bounds: Rules, here: Sequence[Here], made: Plan) -> list[Here]:
    """The cluster once all that was planned has been done."""
    gone = {one.id for one in made.drain}
    left = [one for one in here if one.id not in gone and not one.drains]
    for launch in made.launch:
        kind = bounds.types[launch.type]
        left += [
            Here(
                f"new-{launch.type}-{n}", launch.type, kind.resources, kind.resources, kind.labels,
                joined=False,
            )
            for n in range(launch.count)
        ]  # fmt: skip
    return left


@settings(max_examples=80)
@given(clusters())
def test_the_bounds_hold(case: tuple[Rules, list[Here], Wanted]) -> None:
    bounds, here, wanted = case
    made = plan(bounds, here, wanted, NOW)
    count = {name: sum(one.type == name for one in here) for name in bounds.types}
    new = launched(made)
    for name, kind in bounds.types.items():
        assert new.get(name, 0) == 0 or count[name] + new[name] <= kind.most
    of_all = sum(bool(one.type) for one in here)
    assert not new or of_all + sum(new.values()) <= bounds.most
    then = after(bounds, here, made)
    room = bounds.most - of_all - sum(new.values())
    for name, kind in bounds.types.items():
        stay = sum(one.type == name for one in then)
        held_up = kind.not_before > NOW or count[name] + new.get(name, 0) >= kind.most
        assert stay >= kind.least or held_up or room <= 0, "never fewer than the least"
    assert "head" not in drained(made)
    assert len(set(drained(made))) == len(made.drain)
    assert not {one.id for one in here if one.drains} & set(drained(made))


@settings(max_examples=80)
@given(clusters())
def test_nothing_is_started_that_serves_no_demand(case: tuple[Rules, list[Here], Wanted]) -> None:
    bounds, here, wanted = case
    made = plan(bounds, here, wanted, NOW)
    shapes = [*wanted.asks, *wanted.requested]
    bundles = [bundle for group in wanted.groups for bundle in group.bundles]
    for launch in made.launch:
        kind = bounds.types[launch.type]
        serves = any(
            fits(ask.resources, kind.resources)
            and any(matches(terms, kind.labels) for terms in ask.selector or ((),))
            for ask in shapes
        ) or any(fits(bundle.resources, kind.resources) for bundle in bundles)
        assert serves or kind.least > 0
    unneeded = plan(replace(bounds, types={
        name: replace(kind, least=0) for name, kind in bounds.types.items()
    }), here, Wanted(), NOW)  # fmt: skip
    assert not unneeded.launch


@settings(max_examples=80)
@given(clusters())
def test_nothing_is_drained_that_a_moment_later_is_started_for_the_same_demand(
    case: tuple[Rules, list[Here], Wanted],
) -> None:
    bounds, here, wanted = case
    made = plan(bounds, here, wanted, NOW)
    left = [one for one in here if one.id not in set(drained(made))]
    without = plan(bounds, left, wanted, NOW)
    # A place that has become free may be taken by another type, which is needed more.
    idle = {one.id for one in made.drain if one.only_idle}
    for name in {one.type for one in here if one.id in idle}:
        assert launched(without).get(name, 0) <= launched(made).get(name, 0)


@settings(max_examples=50)
@given(clusters())
def test_it_comes_to_rest(case: tuple[Rules, list[Here], Wanted]) -> None:
    bounds, here, wanted = case
    bounds = replace(bounds, speed=1e6)  # else more follow when these have come
    for _ in range(3):
        made = plan(bounds, here, wanted, NOW)
        here = after(bounds, here, made)
    assert not plan(bounds, here, wanted, NOW).launch


@settings(max_examples=50)
@given(clusters())
def test_what_is_launched_for_tasks_holds_them(case: tuple[Rules, list[Here], Wanted]) -> None:
    """Each new node gets some of the demand, when it is laid out on the nodes that there are."""
    bounds, here, wanted = case
    bounds = replace(bounds, types={
        name: replace(kind, least=0) for name, kind in bounds.types.items()
    })  # fmt: skip
    made = plan(bounds, here, Wanted(wanted.asks), NOW)
    then = after(bounds, here, made)
    then = [replace(one, joined=True, idle_s=1e9) for one in then]
    needed = plan(bounds, then, Wanted(wanted.asks), NOW)
    assert not [id for id in drained(needed) if id.startswith("new-")]


@pytest.mark.slow
@pytest.mark.parametrize("held", [
    test_the_bounds_hold,
    test_nothing_is_started_that_serves_no_demand,
    test_nothing_is_drained_that_a_moment_later_is_started_for_the_same_demand,
    test_it_comes_to_rest,
    test_what_is_launched_for_tasks_holds_them,
])  # fmt: skip
def test_so_it_is_in_many_more_clusters(held: Any) -> None:
    of_many = given(clusters())(held.hypothesis.inner_test)
    settings(max_examples=500, deadline=None)(of_many)()


def test_a_thousand_nodes_and_ten_thousand_shapes_are_planned_in_one_go() -> None:
    bounds, here, wanted = huge(random.Random(1))
    made = plan(bounds, here, wanted, NOW)
    assert sum(launched(made).values()) > 10
    assert len(made.unmet) < 30, "what is said has a bound"
