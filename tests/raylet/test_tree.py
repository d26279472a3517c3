"""Who gives the parts of an object to whom."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from nbray.raylet.objects.tree import ROOT, Ask, Tree

NODES = [b"a", b"b", b"c", b"d", b"e"]


def test_a_node_alone_gets_everything_from_the_root() -> None:
    tree = Tree()
    asks = [tree.ask(b"a", part) for part in range(4)]
    assert {ask.giver for ask in asks} == {ROOT}
    for ask in asks:
        tree.end(ask, True)
    assert not tree.is_busy


def test_a_busy_root_sends_a_node_to_one_that_has_the_part_and_less_to_do() -> None:
    tree = Tree()
    tree.end(tree.ask(b"a", 0), True)
    tree.ask(b"b", 1)
    assert tree.ask(b"c", 0).giver == b"a"


def test_nodes_that_come_late_are_spread_over_all_that_have_it() -> None:
    tree = Tree()
    for node in (b"a", b"b", b"c"):
        tree.end(tree.ask(node, 0), True)
    assert Counter(tree.ask(b"late %d" % i, 0).giver for i in range(8)) == Counter(
        {ROOT: 2, b"a": 2, b"b": 2, b"c": 2}
    )


def test_a_hundred_nodes_that_ask_at_once_stand_in_a_tree_and_not_in_a_chain() -> None:
    tree = Tree()
    depth = {ROOT: 0}
    asks = []
    for number in range(100):
        node = b"%d" % number
        asks.append(tree.ask(node, 0))
        depth[node] = depth[asks[-1].giver] + 1
    assert max(depth.values()) <= 7
    assert max(Counter(ask.giver for ask in asks).values()) <= 8


def test_a_node_that_did_not_give_a_part_is_not_named_to_that_node_again() -> None:
    tree = Tree()
    tree.end(tree.ask(b"a", 0), True)
    for _ in range(3):
        tree.ask(b"x", 9)  # the root is busy
    missed = tree.ask(b"b", 0)
    assert missed.giver == b"a"
    tree.end(missed, False)
    assert tree.ask(b"b", 0).giver == ROOT
    assert tree.ask(b"c", 0).giver == b"a"


def test_nobody_is_sent_to_a_node_that_has_died() -> None:
    tree = Tree()
    tree.end(tree.ask(b"a", 0), True)
    tree.gone(b"a")
    for _ in range(3):
        tree.ask(b"x", 9)
    assert tree.ask(b"b", 0).giver == ROOT


@settings(max_examples=300)
@given(st.data())
def test_nodes_never_wait_for_each_other_in_a_circle(data: st.DataObject) -> None:
    tree = Tree()
    under_way: dict[tuple[bytes, int], Ask] = {}
    has: set[tuple[bytes, int]] = set()
    for _ in range(data.draw(st.integers(1, 60))):
        node, part = data.draw(st.sampled_from(NODES)), data.draw(st.integers(0, 2))
        what = data.draw(st.sampled_from(["ask", "came", "failed", "gone", "evicted"]))
        key = node, part
        if what == "ask" and key not in under_way:
            has.discard(key)
            under_way[key] = tree.ask(node, part)
        elif what == "gone":
            tree.gone(node)
            has = {(other, at) for other, at in has if other != node}
        elif what == "evicted":
            has.discard(key)
        elif key in under_way:
            giver = under_way[key].giver
            came = what == "came" and (giver == ROOT or (giver, part) in has)
            tree.end(under_way.pop(key), came)
            if came:
                has.add(key)
        for node, part in under_way:
            seen = set()
            while (ask := under_way.get((node, part))) is not None and (node, part) not in has:
                assert node not in seen, "a circle"
                seen.add(node)
                node = ask.giver
    for ask in under_way.values():
        tree.end(ask, False)
    assert not tree.is_busy
