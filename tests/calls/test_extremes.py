"""Whatever is written as an option works or fails at that line, and hurts nothing else."""

from __future__ import annotations

import contextlib
import functools
import http
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nbray
from nbray.experimental import internal_kv as kv
from nbray.options.option import Scope
from nbray.options.table import options_of
from nbray.util import metrics
from nbray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from nbray.util.scheduling_strategies import (
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

REFUSED = (ValueError, TypeError)
NUMBERS = [
    0, 1, -1, -2, 0.5, 1e-9, 1e15, 1e30, -1e30, float("nan"), float("inf"), -float("inf"),
    10**15, 1 << 31, (1 << 31) - 1, 1 << 62, 1 << 63, 1 << 64, 1 << 70, 10**5000,
]  # fmt: skip
TEXTS = [
    "", "x", "caf\udce9.csv", "\ud800", "\0", "a\0b", "\x1b]0;t\x07", "x" * 1_000_000,
    "\u00e9" * 999, " ", "\n",
]  # fmt: skip
OTHERS: list[Any] = [
    None, True, b"x", [], {}, object(), lambda: 1, [ValueError], [3],
    np.str_("x"), np.float64(1), np.int64(1), np.bytes_(b"x"), http.HTTPStatus.OK,
    {np.str_("x"): np.float64(1)}, {np.str_("x"): np.str_("y")},
    {"": 1}, {"x": "y"}, {"x": float("nan")}, {1: 1}, {"CPU": 1e15}, {"x": 1e30}, {"\udce9": 1},
    {"x": "\udce9"}, {"x" * 10**6: 1}, {"x": 1 << 70}, {"x": -1},
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cluster for all of them: it has to stand them all."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("x", numbered=True)
        patch.setenv("NBRAY_TMPDIR", str(root))
        patch.setenv("NBRAY_INCLUDE_DASHBOARD", "0")
        nbray.init(num_cpus=2, object_store_memory=64 << 20)
        yield root
        nbray.shutdown()
        assert not list(root.iterdir())


@nbray.remote(num_cpus=1)
def one() -> int:
    return 1


@nbray.remote
class Actor:
    def one(self) -> int:
        return 1


def all_is_well() -> None:
    """A task, an actor and a new shape, which needs the raylet, work."""
    assert nbray.get(one.remote(), timeout=60) == 1
    assert nbray.get(one.options(num_cpus=0.01).remote(), timeout=60) == 1


def a_task(options: dict[str, Any]) -> None:
    refs = one.options(**options).remote()
    if isinstance(refs, nbray.ObjectRef):
        nbray.cancel(refs)  # it may wait for ever, as it should


def an_actor(options: dict[str, Any]) -> None:
    wanted = dict(options)
    groups = {"concurrency_groups": wanted.pop("concurrency_groups", None)}
    plain = type("A", (), {"one": lambda self: 1})
    actor = nbray.remote(**groups)(plain).options(**wanted).remote()
    nbray.wait([actor.one.remote()], timeout=0.2)  # not all at once; some can never be
    nbray.kill(actor)


@functools.cache
def living() -> Any:
    return Actor.remote()


def a_call(options: dict[str, Any]) -> None:
    living().one.options(**options).remote()


PLACES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    *((a_task, name) for name in options_of(Scope.TASK)),
    *((an_actor, name) for name in options_of(Scope.ACTOR)),
    *((a_call, name) for name in options_of(Scope.CALL)),
]


@pytest.mark.parametrize(("use", "name"), PLACES, ids=lambda part: getattr(part, "__name__", part))
def test_every_extreme_of_every_option_works_or_is_refused_where_it_is_written(
    small: Path, use: Callable[[dict[str, Any]], None], name: str
) -> None:
    for value in [*NUMBERS, *TEXTS, *OTHERS]:
        options = {name: value}
        if name == "get_if_exists":
            options["name"] = "x"
        with contextlib.suppress(*REFUSED):
            use(options)
    all_is_well()


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_options_together(small: Path, data: st.DataObject) -> None:
    is_task = data.draw(st.booleans())
    names = list(options_of(Scope.TASK if is_task else Scope.ACTOR))
    numbers = st.one_of(st.integers(), st.floats(), st.sampled_from(NUMBERS))
    texts = st.one_of(st.text(st.characters(), max_size=50), st.sampled_from(TEXTS))
    values = st.one_of(
        numbers, texts, st.none(), st.booleans(),
        st.dictionaries(texts, st.one_of(numbers, texts), max_size=3), st.lists(texts, max_size=2),
    )  # fmt: skip
    options = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=4))
    if isinstance(options.get("num_returns"), int):
        options["num_returns"] %= 1000
    with contextlib.suppress(*REFUSED):
        (a_task if is_task else an_actor)(options)
    assert nbray.get(one.remote(), timeout=60) == 1


def test_a_request_that_no_node_can_serve_waits_and_hurts_nobody(small: Path) -> None:
    waiting = [
        one.options(num_cpus=1e30).remote(), one.options(memory=10**15).remote(),
        one.options(resources={"x": 1e15}).remote(),
    ]  # fmt: skip
    group = placement_group([{"CPU": 1e15}, {"CPU": 1e30, "x": 1 << 70}])
    assert not group.wait(0.5)
    ready, _ = nbray.wait(waiting, timeout=0.5)
    assert not ready
    all_is_well()
    for ref in waiting:
        nbray.cancel(ref)
    remove_placement_group(group)


ELSEWHERE: dict[str, Callable[[Any], Any]] = {
    "bundles": lambda value: placement_group(value),
    "a bundle": lambda value: placement_group([value]),
    "an amount of a bundle": lambda value: placement_group([{"CPU": value}]),
    "a resource of a bundle": lambda value: placement_group([{value: 1}]),
    "a group's strategy": lambda value: placement_group([{"CPU": 1}], strategy=value),
    "a group's name": lambda value: placement_group([{"CPU": 1}], name=value),
    "a group's lifetime": lambda value: placement_group([{"CPU": 1}], lifetime=value),
    "a group's node": lambda value: placement_group(
        [{"CPU": 1}], "STRICT_PACK", _soft_target_node_id=value
    ),
    "a bundle's labels": lambda value: placement_group([{"CPU": 1}], bundle_label_selector=[value]),
    "a group": lambda value: PlacementGroup(value).ready(),
    "a group to remove": remove_placement_group,
    "a group to look up": lambda value: placement_group_table(value),
    "a group's name to look up": get_placement_group,
    "a strategy's group": lambda value: one.options(
        scheduling_strategy=PlacementGroupSchedulingStrategy(value)
    ).remote(),
    "a node": lambda value: one.options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(value, soft=True)
    ).remote(),
    "a label": lambda value: one.options(
        scheduling_strategy=NodeLabelSchedulingStrategy(hard={}, soft={"x": In(value)})
    ).remote(),
    "a label's key": lambda value: one.options(
        scheduling_strategy=NodeLabelSchedulingStrategy(hard={}, soft={value: In("x")})
    ).remote(),
    "an environment": lambda value: nbray.cancel(
        one.options(runtime_env={"env_vars": {"X": value}}).remote()
    ),
    "a variable's name": lambda value: nbray.cancel(
        one.options(runtime_env={"env_vars": {value: "x"}}).remote()
    ),
    "a key": lambda value: kv._internal_kv_put(value, b"x"),
    "a value": lambda value: kv._internal_kv_put(b"x", value),
    "a key's namespace": lambda value: kv._internal_kv_put(b"x", b"x", namespace=value),
    "a key to look up": kv._internal_kv_get,
    "a metric": lambda value: metrics.Counter("m", value, ("t",)).inc(1, {"t": "x"}),
    "a tag": lambda value: metrics.Counter("n", "", (value,)).inc(1, {value: "x"}),
    "a tag's value": lambda value: metrics.Counter("o", "", ("t",)).inc(1, {"t": value}),
    "a tag's default": lambda value: metrics.Gauge("p", "", ("t",)).set_default_tags({"t": value}),
    "a number": lambda value: metrics.Gauge("q").set(value),
    "a bound": lambda value: metrics.Histogram("r", boundaries=[value]).observe(1),
    "an actor's name to look up": nbray.get_actor,
    "a namespace to look up in": lambda value: nbray.get_actor("x", namespace=value),
    "a timeout of get": lambda value: nbray.get(one.remote(), timeout=value),
    "a timeout of wait": lambda value: nbray.wait([one.remote()], timeout=value),
    "a number to wait for": lambda value: nbray.wait([one.remote()], num_returns=value),
    "a method's option": lambda value: nbray.method(max_task_retries=value),
    "a method's number of returns": lambda value: nbray.method(num_returns=value),
}


@pytest.mark.parametrize("use", ELSEWHERE.values(), ids=ELSEWHERE)
def test_every_extreme_elsewhere(small: Path, use: Callable[[Any], Any]) -> None:
    for value in [*NUMBERS, *TEXTS, *OTHERS]:
        with contextlib.suppress(*REFUSED, nbray.exceptions.GetTimeoutError):
            made = use(value)
            if isinstance(made, PlacementGroup) and not made.is_empty:
                remove_placement_group(made)
    all_is_well()


@pytest.mark.parametrize("value", [0, False, 0.0, None, b"", [], {}])
def test_what_is_false_is_no_text(value: Any) -> None:
    for metric in (
        lambda: metrics.Counter("m", value), lambda: metrics.Counter("m", "", ("t", value)),
        lambda: metrics.Gauge("m", "", ("t",)).set_default_tags({"t": value}),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            metric()


def test_values_that_no_message_carries_are_refused_with_their_size(small: Path) -> None:
    large = bytes(150 << 20)
    with pytest.raises(ValueError, match="not 157,286,401"):
        kv._internal_kv_put(b"k", large)
    with pytest.raises(nbray.exceptions.RuntimeEnvSetupError, match="worker_process_setup_hook"):
        one.options(runtime_env={"worker_process_setup_hook": lambda: large}).remote()
    with pytest.raises(ValueError, match="as JSON, not"):
        one.options(runtime_env={"env_vars": {"X": "x" * 1_000_000}}).remote()
    all_is_well()


def test_classes_and_functions_may_have_any_name(small: Path) -> None:
    odd = type("\u00e9\x1b[2J" + "x" * 5000, (), {"one": lambda self: 1})
    assert nbray.get(nbray.remote(odd).remote().one.remote(), timeout=60) == 1

    def function() -> int:
        return 1

    function.__name__ = function.__qualname__ = "\ud800" * 5000
    assert nbray.get(nbray.remote(function).remote(), timeout=60) == 1
