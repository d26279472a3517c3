"""Which node serves a task or an actor: a pure function of the node table.

The default is Ray's hybrid policy. A node's score is the share of its scarcest resource that is
used, and zero below one half: so nodes are filled to one half first, the asking node before all
others, and then evenly. Among the best fifth of the nodes one is drawn by the generator that the
caller passes, so that many askers with the same old view do not all choose the same node. Work
that needs no GPU avoids nodes that have some, as long as another has room.

A node where it fits now goes before one where it could ever fit; where none could, the request
waits for a node to join. Of several label selectors the first counts of which a node has room,
else the first that a node could ever meet. ``available`` in the rows is what the caller believes:
after a choice it subtracts the demand, so that a burst is spread.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from nbray.common.resources import fits, subtract
from nbray.scheduling.labels import matches
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.records import BundleInfo, NodeInfo
from nbray.wire.strategies import (
    Anywhere,
    InGroup,
    Labelled,
    LabelTerm,
    OnNode,
    Selectors,
    Spread,
    Strategy,
)

_PACK_BELOW = 0.5
_TOP_SHARE = 0.2
_ALWAYS_CRITICAL = ("CPU", "memory")


class Verdict(Enum):
    """What a choice means: it fits now, it fits later, no node could ever, or it must fail."""

    NOW = "now"
    LATER = "later"
    INFEASIBLE = "infeasible"
    UNSCHEDULABLE = "unschedulable"


@dataclass(frozen=True)
class Demand:
    """A wish for a node."""

    resources: Mapping[str, int]
    strategy: Strategy
    selector: Selectors = ()


@dataclass(frozen=True)
class Choice:
    """The node, when there is one; ``cause`` says why there can be none."""

    verdict: Verdict
    node: NodeInfo | None = None
    cause: Cause | None = None


def choose(
    demand: Demand,
    nodes: Sequence[NodeInfo],
    here: bytes,
    generator: random.Random,
    turn: int = 0,
    near: bytes = b"",
) -> Choice:
    """Choose a node.

    Args:
        demand: the wish.
        nodes: all rows; those that are dead or drain are passed over, but for work in a group's
            bundles, which has no other place.
        here: the asking node, which goes first as long as it is less than half used.
        generator: draws among equally good nodes.
        turn: how many SPREAD wishes were served before.
        near: the node with most of the arguments, which goes first as long as it has room now.
    """
    if isinstance(demand.strategy, InGroup):
        return _in_group(demand, demand.strategy, nodes, here)

    def among(terms: tuple[LabelTerm, ...]) -> Choice:
        alive = [n for n in nodes if n.takes_work and matches(terms, n.labels)]
        return _among(demand, alive, here, generator, turn, near)

    return by_selectors(demand, among)


def by_selectors(demand: Demand, among: Callable[[tuple[LabelTerm, ...]], Choice]) -> Choice:
    """The first selector under which a demand fits now, or else the first that has a node at all.

    Args:
        demand: what is to be placed; without a selector, every node is meant.
        among: chooses of the nodes that meet these conditions.
    """
    first: Choice | None = None
    for terms in demand.selector or ((),):
        choice = among(terms)
        if choice.verdict is Verdict.NOW:
            return choice
        if first is None or (first.node is None and choice.node is not None):
            first = choice
    assert first is not None
    return first


def _among(
    demand: Demand, alive: Sequence[NodeInfo], here: bytes, generator: random.Random, turn: int,
    near: bytes,
) -> Choice:  # fmt: skip
    """Choose one of the nodes that meet the same conditions on labels."""
    strategy = demand.strategy
    if isinstance(strategy, OnNode):
        node = next((n for n in alive if n.node_id == strategy.node_id), None)
        if node is not None and fits(demand.resources, node.total):
            if fits(demand.resources, node.available):
                return Choice(Verdict.NOW, node)
            if strategy.fail_on_unavailable:
                return Choice(Verdict.UNSCHEDULABLE, None, _UNAVAILABLE)
            if not strategy.spill_on_unavailable:
                return Choice(Verdict.LATER, node)
        elif not strategy.soft:
            return Choice(Verdict.UNSCHEDULABLE, None, _NO_SUCH_NODE)
        strategy = Anywhere()
    if isinstance(strategy, Labelled):
        alive = [n for n in alive if matches(strategy.hard, n.labels)]
        liked = [n for n in alive if matches(strategy.soft, n.labels)]
        first = _hybrid(demand.resources, liked, here, generator)
        if first.verdict is Verdict.NOW:
            return first
        other = _hybrid(demand.resources, alive, here, generator)
        return first if other.verdict is first.verdict else other
    if isinstance(strategy, Spread):
        return _spread(demand.resources, alive, turn)
    if near:
        for node in alive:
            if node.node_id == near and fits(demand.resources, node.available):
                return Choice(Verdict.NOW, node)
    return _hybrid(demand.resources, alive, here, generator)


_NO_SUCH_NODE = Cause(
    CauseKind.UNSCHEDULABLE,
    "The node specified via NodeAffinitySchedulingStrategy doesn't exist any more or is "
    "infeasible, and soft=False was specified.",
)
_UNAVAILABLE = Cause(
    CauseKind.UNSCHEDULABLE,
    "The node specified via NodeAffinitySchedulingStrategy doesn't have the available resources, "
    "and _fail_on_unavailable=True was specified.",
)


def charge(demand: Demand, node: NodeInfo) -> None:
    """Subtract a demand from a row that it was sent to."""
    if not isinstance(demand.strategy, InGroup):
        subtract(node.available, demand.resources)
        return
    for bundle in bundles_of(demand.strategy, node):
        if fits(demand.resources, bundle.available):
            subtract(bundle.available, demand.resources)
            return


def bundles_of(strategy: InGroup, node: NodeInfo) -> list[BundleInfo]:
    """The bundles of a node in which something of that strategy may run."""
    return [
        bundle
        for bundle in node.bundles
        if bundle.committed
        and bundle.group_id == strategy.group_id
        and strategy.index in (-1, bundle.index)
    ]


def could_hold(demand: Demand, node: NodeInfo) -> bool:
    """Whether a node's resources, or its bundles of the group, could ever hold a demand."""
    strategy = demand.strategy
    if not isinstance(strategy, InGroup):
        return fits(demand.resources, node.total)
    return any(fits(demand.resources, bundle.total) for bundle in bundles_of(strategy, node))


def _in_group(demand: Demand, strategy: InGroup, nodes: Sequence[NodeInfo], here: bytes) -> Choice:
    able = [n for n in nodes if n.alive and could_hold(demand, n)]
    able.sort(key=lambda n: (n.node_id != here, n.node_id))
    for node in able:
        if any(fits(demand.resources, b.available) for b in bundles_of(strategy, node)):
            return Choice(Verdict.NOW, node)
    return Choice(Verdict.LATER, able[0]) if able else Choice(Verdict.INFEASIBLE)


def may_run(demand: Demand, node: NodeInfo) -> bool:
    """Whether a wish that waits at a node may be served there, resources aside."""
    strategy = demand.strategy
    if not any(matches(terms, node.labels) for terms in demand.selector or ((),)):
        return False
    if isinstance(strategy, OnNode):
        return strategy.soft or strategy.node_id == node.node_id
    return not isinstance(strategy, Labelled) or matches(strategy.hard, node.labels)


def utilisation(demand: Mapping[str, int], node: NodeInfo) -> float:
    """The used share of the node's scarcest resource among CPU, memory and what is demanded."""
    shares = [
        1 - node.available.get(name, 0) / node.total[name]
        for name in {*demand, *_ALWAYS_CRITICAL}
        if node.total.get(name, 0) > 0
    ]
    return max(shares, default=0.0)


def _hybrid(
    demand: Mapping[str, int], nodes: Sequence[NodeInfo], here: bytes, generator: random.Random
) -> Choice:
    able = [n for n in nodes if fits(demand, n.total)]
    if not able:
        return Choice(Verdict.INFEASIBLE)
    now = [n for n in able if fits(demand, n.available)]
    if not demand.get("GPU"):
        now = [n for n in now if not n.total.get("GPU")] or now
    if not now:
        return Choice(Verdict.LATER, _draw(demand, able, here, generator))
    return Choice(Verdict.NOW, _draw(demand, now, here, generator))


def _draw(
    demand: Mapping[str, int], nodes: Sequence[NodeInfo], here: bytes, generator: random.Random
) -> NodeInfo:
    scores = {n.node_id: _score(utilisation(demand, n)) for n in nodes}
    best = min(scores.values())
    for node in nodes:
        if node.node_id == here and scores[here] == best:
            return node
    ordered = sorted(nodes, key=lambda n: (scores[n.node_id], n.node_id))
    return generator.choice(ordered[: max(1, int(len(ordered) * _TOP_SHARE))])


def _score(used: float) -> float:
    return used if used >= _PACK_BELOW else 0.0


def _spread(demand: Mapping[str, int], nodes: Sequence[NodeInfo], turn: int) -> Choice:
    able = sorted((n for n in nodes if fits(demand, n.total)), key=lambda n: n.node_id)
    if not able:
        return Choice(Verdict.INFEASIBLE)
    start = turn % len(able)
    in_turn = able[start:] + able[:start]
    for node in in_turn:
        if fits(demand, node.available):
            return Choice(Verdict.NOW, node)
    return Choice(Verdict.LATER, in_turn[0])
