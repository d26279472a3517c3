"""Graphs of calls: ``bind`` and ``execute``."""

from __future__ import annotations

from pathlib import Path

import pytest

import nbray
from nbray.dag import DAGNode, InputNode, MultiOutputNode


@nbray.remote
def inc(value: int, by: int = 1) -> int:
    return value + by


@nbray.remote
def total(values: list[nbray.ObjectRef]) -> int:
    return sum(nbray.get(values))


@nbray.remote
class Adder:
    def __init__(self, start: int) -> None:
        self.sum = start

    def add(self, value: int) -> int:
        self.sum += value
        return self.sum

    def pair(self) -> tuple[int, int]:
        return self.sum, -self.sum


def test_nothing_is_submitted_before_execute(module_cluster: Path, tmp_path: Path) -> None:
    @nbray.remote
    def mark() -> None:
        with open(tmp_path / "runs", "a") as file:
            file.write("x")

    node = mark.bind()
    assert not (tmp_path / "runs").exists()
    nbray.get([node.execute(), node.execute()], timeout=30)
    assert (tmp_path / "runs").read_text() == "xx"


def test_a_node_that_two_others_need_runs_once_for_each_execution(module_cluster: Path) -> None:
    adder = Adder.remote(0)
    shared = adder.add.bind(1)
    graph = MultiOutputNode([inc.bind(shared), inc.bind(shared, by=10)])
    assert nbray.get(graph.execute(), timeout=30) == [2, 11]
    assert nbray.get(graph.execute(), timeout=30) == [3, 12]


def test_an_actor_of_a_graph_is_made_when_it_is_executed(module_cluster: Path) -> None:
    adder = Adder.options(num_cpus=0).bind(inc.bind(9))
    graph = adder.add.bind(5)
    assert nbray.get([graph.execute(), graph.execute()], timeout=30) == [15, 15]
    first, second = adder.pair.options(num_returns=2).bind().execute()
    assert nbray.get([first, second], timeout=30) == [15, -15]
    assert nbray.get(adder.execute().add.remote(1), timeout=30) == 11
    with pytest.raises(AttributeError, match="nope"):
        adder.nope.bind()


def test_inputs_are_taken_whole_and_in_parts(module_cluster: Path) -> None:
    with InputNode() as given:
        whole = inc.bind(inc.bind(given))
        parts = inc.bind(given[0], by=given.by)
    assert nbray.get(whole.execute(40), timeout=30) == 42
    assert nbray.get(parts.execute(1, by=5), timeout=30) == 6
    assert nbray.get(inc.bind(given["a"], given["b"]).execute({"a": 1, "b": 2}), timeout=30) == 3
    with pytest.raises(ValueError, match="executed with 2 arguments"):
        whole.execute(1, 2)
    with pytest.raises(TypeError, match="no InputNode"):
        inc.bind(1).execute(2)


def test_nodes_may_stand_in_lists_and_a_chain_may_be_long(module_cluster: Path) -> None:
    assert nbray.get(total.bind([inc.bind(1), inc.bind(2)]).execute(), timeout=30) == 5
    node = inc.bind(0)
    for _ in range(1999):
        node = inc.bind(node)
    assert nbray.get(node.execute(), timeout=60) == 2000


def test_compiled_graphs_are_refused_in_words() -> None:
    with pytest.raises(NotImplementedError, match=r"call execute\(\) instead"):
        inc.bind(1).experimental_compile()


def test_a_node_that_is_taken_for_a_call_says_how_it_is_made() -> None:
    node, actor = inc.bind(1), Adder.bind(1)
    for call in (lambda: node.remote(), lambda: actor.add.remote(1)):
        with pytest.raises(AttributeError, match=r"calls of a graph, use .execute\(\)"):
            call()
    for call in (lambda: node.bind(2), lambda: actor.add.bind(1).bind(2)):
        with pytest.raises(AttributeError, match="a node is bound already"):
            call()
    with pytest.raises(AttributeError, match=r"'FunctionNode' object has no attribute 'nope'$"):
        _ = node.nope


def test_an_actors_calls_are_made_in_the_order_of_their_binding(module_cluster: Path) -> None:
    @nbray.remote
    class Sum:
        def __init__(self, value: int) -> None:
            self.value = value

        def add(self, value: int) -> None:
            self.value += value

        def get(self) -> int:
            return self.value

    @nbray.remote
    def both(one: int, other: int) -> tuple[int, int]:
        return one, other

    one, other = Sum.bind(10), Sum.bind(20)
    early = one.get.bind()
    one.add.bind(2)
    one.add.bind(4)
    other.add.bind(6)
    assert nbray.get(both.bind(one.get.bind(), other.get.bind()).execute(), timeout=30) == (16, 26)
    assert nbray.get(early.execute(), timeout=30) == 10


def test_each_value_of_a_method_of_several_is_a_node(module_cluster: Path) -> None:
    @nbray.remote
    class Halves:
        @nbray.method(num_returns=2)
        def of(self, value: int) -> tuple[int, int]:
            return value // 2, value - value // 2

    halves = Halves.remote()
    with InputNode() as given:
        less, more = halves.of.bind(given)
        graph = MultiOutputNode([inc.bind(less), more])
    assert nbray.get(graph.execute(5), timeout=30) == [3, 3]
    assert (less.get_method_name(), more.get_method_name()) == ("return_idx_0", "return_idx_1")
    one, two, three = halves.of.options(num_returns=3).bind(1)
    assert [node.get_args()[1] for node in (one, two, three)] == [0, 1, 2]


def test_a_graph_can_be_looked_at_and_changed_before_it_is_executed(module_cluster: Path) -> None:
    with InputNode() as given:
        shared = inc.options(name="shared").bind(given)
        graph = inc.bind(shared, by=shared)
    assert graph.get_args() == (shared,) and graph.get_kwargs() == {"by": shared}
    assert shared.get_options()["name"] == "shared"
    assert Adder.bind(1).add.bind(2).get_method_name() == "add"
    seen: list[DAGNode] = []

    def look(node: DAGNode) -> DAGNode:
        seen.append(node)
        return node

    assert graph.apply_recursive(look) is graph
    assert seen == [given, shared, graph]
    changed = graph.apply_recursive(lambda node: inc.bind(10) if node is shared else node)
    assert changed is not graph and changed.get_stable_uuid() == graph.get_stable_uuid()
    assert nbray.get(changed.execute(_ray_cache_refs=True), timeout=30) == 22
    assert nbray.get(graph.execute(1), timeout=30) == 4, "the graph itself is as it was"
