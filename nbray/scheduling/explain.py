"""Why something waits for resources, in sentences: a pure function of the node table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nbray.common.resources import add, fits, from_units
from nbray.scheduling.bundles import Bundle, place
from nbray.scheduling.labels import matches, term_text
from nbray.scheduling.policy import Demand, could_hold
from nbray.wire.records import NodeInfo
from nbray.wire.strategies import GroupStrategy, InGroup, Labelled, LabelTerm, OnNode

_MOST_NODES = 5


def why_pending(demand: Demand, nodes: Iterable[NodeInfo]) -> list[str]:
    """Sentences on a task or actor that waits: which nodes could ever serve it, what they lack.

    Args:
        demand: resources in units of 1/10000, the strategy and the label selector.
        nodes: all rows of the node table.
    """
    alive = [n for n in nodes if n.takes_work]
    if isinstance(demand.strategy, InGroup):
        return [_in_group_text(demand, demand.strategy, alive)]
    able = [n for n in alive if _able(demand, n)]
    if not able:
        return [infeasible_text(demand, alive)]
    now = [n for n in able if fits(demand.resources, n.available)]
    if now:
        return [f"{_name(now[0])} has room for {_wish(demand)} now: it starts soon."]
    sentences = [
        f"{_name(n)} could serve {_wish(demand)}, but lacks "
        f"{_amounts(_missing(demand.resources, n.available))} now."
        for n in able[:_MOST_NODES]
    ]
    if len(able) > _MOST_NODES:
        sentences.append(f"So it is with {len(able) - _MOST_NODES} other nodes.")
    return sentences


def feasible(demand: Demand, nodes: Iterable[NodeInfo]) -> bool:
    """Whether some node could ever serve a wish."""
    if isinstance(demand.strategy, InGroup):
        return True  # whether a bundle could hold it was checked when it was submitted
    return any(n.takes_work and _able(demand, n) for n in nodes)


def _in_group_text(demand: Demand, strategy: InGroup, nodes: Iterable[NodeInfo]) -> str:
    which = "a bundle" if strategy.index < 0 else f"bundle {strategy.index}"
    where = f"{which} of placement group {strategy.group_id.hex()[:8]}"
    if any(could_hold(demand, n) for n in nodes):
        return f"It waits for {_amounts(demand.resources)} of {where}, which others use now."
    return f"It waits for {where}, which is not reserved yet."


def _able(demand: Demand, node: NodeInfo) -> bool:
    return fits(demand.resources, node.total) and not _unmet(demand, node)


def infeasible_text(demand: Demand, nodes: Iterable[NodeInfo], *, grows: bool = False) -> str:
    """A sentence on a wish that no node could ever serve, with the node that lacks least.

    Nodes that leave are none. One that has come since it was decided so is named as what it is.

    ``grows``: an autoscaler may start a node that does.
    """
    known = list(nodes)
    rows = [n for n in known if n.takes_work]
    if grows:
        return (
            f"No node that is there can serve {_wish(demand)}. The autoscaler starts one, if its "
            "file has a node type for it: `nbray status` says what comes, and what does not."
        )
    if not rows:
        what = "takes work any more" if any(n.alive for n in known) else "is alive"
        return f"No node {what} to serve {_wish(demand)}."

    def distance(node: NodeInfo) -> tuple[int, float]:
        missing = _missing(demand.resources, node.total)
        share = sum(amount / demand.resources[name] for name, amount in missing.items())
        return len(missing) + len(_unmet(demand, node)), share

    nearest = min(rows, key=distance)
    lacks = list(_unmet(demand, nearest))
    missing = _missing(demand.resources, nearest.total)
    if missing:
        lacks.insert(0, _amounts(missing))
    if not lacks:
        return f"{_name(nearest)} can serve {_wish(demand)}: the request waits until it does."
    return (
        f"No node of the cluster can ever serve {_wish(demand)}. Nearest is node "
        f"{nearest.node_id.hex()[:8]} on {nearest.host}, which lacks {' and '.join(lacks)}. "
        "The request waits: ask for less, or add a node that has it."
    )


def why_group_pending(
    bundles: Sequence[Bundle], strategy: GroupStrategy, nodes: Iterable[NodeInfo]
) -> list[str]:
    """Sentences on a placement group that waits."""
    alive = [n for n in nodes if n.takes_work]
    indexed = dict(enumerate(bundles))
    asked = f"a {strategy} placement group of {_bundles_text(bundles)}"
    if place(indexed, strategy, alive) is not None:
        return [f"The cluster has room for {asked} now: it is reserved soon."]
    if place(indexed, strategy, alive, empty=True) is not None:
        return [f"The cluster could hold {asked}, but what is free now does not suffice."]
    for index, bundle in indexed.items():
        alone = Demand(bundle.resources, OnNode(b"", soft=True), (bundle.selector,))
        if not any(fits(bundle.resources, n.total) and not _unmet(alone, n) for n in alive):
            return [f"Bundle {index} of {asked} fits nowhere. {infeasible_text(alone, alive)}"]
    if strategy == "STRICT_PACK":
        together: dict[str, int] = {}
        for bundle in bundles:
            add(together, bundle.resources)
        terms = tuple(term for bundle in bundles for term in bundle.selector)
        whole = Demand(together, OnNode(b"", soft=True), (terms,))
        return [f"All bundles of {asked} go to one node. {infeasible_text(whole, alive)}"]
    if strategy == "STRICT_SPREAD":
        return [
            f"Each bundle of {asked} needs a node of its own, which the {len(alive)} nodes of the "
            "cluster do not give. The group waits: add nodes, or use SPREAD."
        ]
    return [
        f"Each bundle of {asked} would fit, but not all together in the {len(alive)} nodes of the "
        "cluster. The group waits: ask for less, or add a node."
    ]


def _bundles_text(bundles: Sequence[Bundle]) -> str:
    if len(bundles) > 1 and all(b.resources == bundles[0].resources for b in bundles):
        return f"{len(bundles)} x {_amounts(bundles[0].resources)}"
    shown = ", ".join(_amounts(b.resources) for b in bundles[:_MOST_NODES])
    return f"[{shown}{', ...' if len(bundles) > _MOST_NODES else ''}]"


def _name(node: NodeInfo) -> str:
    return f"Node {node.node_id.hex()[:8]} on {node.host}"


def _wish(demand: Demand) -> str:
    strategy = demand.strategy
    text = _amounts(demand.resources)
    wishes = [_terms(terms) for terms in _selectors(demand) if terms]
    if wishes:
        text += f" with {', or with '.join(wishes)}"
    if isinstance(strategy, OnNode) and not strategy.soft:
        text += f" on node {strategy.node_id.hex()[:8]}"
    return text


def _selectors(demand: Demand) -> list[tuple[LabelTerm, ...]]:
    """The conditions on labels, of which one group is to be met."""
    strategy = demand.strategy
    hard = strategy.hard if isinstance(strategy, Labelled) else ()
    return [terms + hard for terms in demand.selector or ((),)]


def _terms(terms: Iterable[LabelTerm]) -> str:
    return "labels " + ", ".join(term_text(term) for term in terms)


def _amounts(resources: Mapping[str, int]) -> str:
    return str(from_units(resources))


def _missing(demand: Mapping[str, int], has: Mapping[str, int]) -> dict[str, int]:
    missing = {name: amount - has.get(name, 0) for name, amount in demand.items()}
    return {name: amount for name, amount in missing.items() if amount > 0}


def _unmet(demand: Demand, node: NodeInfo) -> list[str]:
    strategy = demand.strategy
    unmet = min(
        (
            [term for term in terms if not matches([term], node.labels)]
            for terms in _selectors(demand)
        ),
        key=len,
    )
    reasons = [_terms(unmet)] if unmet else []
    if isinstance(strategy, OnNode) and not strategy.soft and strategy.node_id != node.node_id:
        reasons.append("the id that was asked for")
    return reasons
