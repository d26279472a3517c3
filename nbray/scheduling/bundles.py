"""On which nodes the bundles of a placement group go: a pure function of the node table.

Large bundles are placed first, since small ones find room anywhere. STRICT_SPREAD is a matching
of bundles to nodes, found by augmenting paths, so that it is found whenever there is one.
PACK takes the node that holds most of what is left, again and again. A tie goes to the fuller
node, which keeps empty ones free for larger groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nbray.common.resources import add, fits, subtract
from nbray.scheduling.labels import matches
from nbray.scheduling.policy import utilisation
from nbray.wire.records import NodeInfo
from nbray.wire.strategies import GroupStrategy, LabelTerm


@dataclass(frozen=True)
class Bundle:
    """What is reserved together on one node."""

    resources: Mapping[str, int]
    selector: tuple[LabelTerm, ...] = ()


def place(
    bundles: Mapping[int, Bundle],
    strategy: GroupStrategy,
    nodes: Iterable[NodeInfo],
    *,
    elsewhere: Iterable[bytes] = (),
    soft_target: bytes = b"",
    empty: bool = False,
) -> dict[int, bytes] | None:
    """The node of each bundle, or None when there is no room for all.

    Args:
        bundles: those to place, by their index in the group.
        strategy: the group's.
        nodes: all rows; those that are dead or drain are passed over.
        elsewhere: the nodes of the group's other bundles, which stay where they are.
        soft_target: STRICT_PACK prefers this node.
        empty: decide as if nothing were in use: could it ever be placed?
    """
    alive = [n for n in nodes if n.takes_work]
    free = {n.node_id: dict(n.total if empty else n.available) for n in alive}
    alive.sort(key=lambda n: (n.node_id != soft_target, -utilisation({}, n), n.node_id))
    order = sorted(bundles, key=lambda i: (-len(bundles[i].resources), -_size(bundles[i]), i))
    match strategy:
        case "STRICT_PACK":
            return _strict_pack(bundles, alive, free)
        case "STRICT_SPREAD":
            others = set(elsewhere)
            return _strict_spread(
                bundles, order, [n for n in alive if n.node_id not in others], free
            )
        case "SPREAD":
            return _spread(bundles, order, alive, free, elsewhere)
        case "PACK":
            return _pack(bundles, order, alive, free)


def _size(bundle: Bundle) -> int:
    return sum(amount for name, amount in bundle.resources.items() if name != "memory")


def _goes(bundle: Bundle, node: NodeInfo, free: Mapping[bytes, Mapping[str, int]]) -> bool:
    return fits(bundle.resources, free[node.node_id]) and matches(bundle.selector, node.labels)


def _strict_pack(
    bundles: Mapping[int, Bundle], nodes: Sequence[NodeInfo], free: Mapping[bytes, dict[str, int]]
) -> dict[int, bytes] | None:
    together: dict[str, int] = {}
    for bundle in bundles.values():
        add(together, bundle.resources)
    whole = Bundle(together, tuple(term for b in bundles.values() for term in b.selector))
    for node in nodes:
        if _goes(whole, node, free):
            return dict.fromkeys(bundles, node.node_id)
    return None


def _strict_spread(
    bundles: Mapping[int, Bundle],
    order: Sequence[int],
    nodes: Sequence[NodeInfo],
    free: Mapping[bytes, dict[str, int]],
) -> dict[int, bytes] | None:
    able = {i: [n.node_id for n in nodes if _goes(bundles[i], n, free)] for i in order}
    holder: dict[bytes, int] = {}

    def find(index: int, tried: set[bytes]) -> bool:
        for node_id in able[index]:
            if node_id in tried:
                continue
            tried.add(node_id)
            if node_id not in holder or find(holder[node_id], tried):
                holder[node_id] = index
                return True
        return False

    if not all(find(index, set()) for index in order):
        return None
    return {index: node_id for node_id, index in holder.items()}


def _spread(
    bundles: Mapping[int, Bundle],
    order: Sequence[int],
    nodes: Sequence[NodeInfo],
    free: Mapping[bytes, dict[str, int]],
    elsewhere: Iterable[bytes],
) -> dict[int, bytes] | None:
    held = dict.fromkeys(free, 0)
    for node_id in elsewhere:
        held[node_id] = held.get(node_id, 0) + 1
    placed: dict[int, bytes] = {}
    for index in order:
        able = [n for n in nodes if _goes(bundles[index], n, free)]
        if not able:
            return _pack(bundles, order, nodes, _restored(bundles, placed, free))
        node = min(able, key=lambda n: held[n.node_id])
        held[node.node_id] += 1
        subtract(free[node.node_id], bundles[index].resources)
        placed[index] = node.node_id
    return placed


def _restored(
    bundles: Mapping[int, Bundle],
    placed: Mapping[int, bytes],
    free: Mapping[bytes, dict[str, int]],
) -> Mapping[bytes, dict[str, int]]:
    for index, node_id in placed.items():
        add(free[node_id], bundles[index].resources)
    return free


def _pack(
    bundles: Mapping[int, Bundle],
    order: Sequence[int],
    nodes: Sequence[NodeInfo],
    free: Mapping[bytes, dict[str, int]],
) -> dict[int, bytes] | None:
    placed: dict[int, bytes] = {}
    left = list(order)
    rest = list(nodes)
    while left:
        best: list[int] = []
        chosen: NodeInfo | None = None
        for node in rest:
            held = _held_by(bundles, left, node, free)
            if len(held) > len(best):
                best, chosen = held, node
                if len(held) == len(left):
                    break
        if chosen is None:
            return None
        rest.remove(chosen)
        placed.update(dict.fromkeys(best, chosen.node_id))
        left = [index for index in left if index not in placed]
    return placed


def _held_by(
    bundles: Mapping[int, Bundle],
    order: Sequence[int],
    node: NodeInfo,
    free: Mapping[bytes, dict[str, int]],
) -> list[int]:
    room = dict(free[node.node_id])
    held = []
    for index in order:
        bundle = bundles[index]
        if fits(bundle.resources, room) and matches(bundle.selector, node.labels):
            subtract(room, bundle.resources)
            held.append(index)
    return held
