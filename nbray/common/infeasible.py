"""Why a resource shape can never be served: one sentence, wherever it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from nbray.common.resources import from_units


class NodeRow(Protocol):
    """What the sentence needs to know of a node."""

    @property
    def node_id(self) -> bytes: ...
    @property
    def host(self) -> str: ...
    @property
    def total(self) -> Mapping[str, int]: ...


def infeasible_text(demand: Mapping[str, int], nodes: Iterable[NodeRow]) -> str:
    """A sentence on a shape that no node could ever serve, with the node that lacks least."""

    def lacks(node: NodeRow) -> dict[str, int]:
        missing = {name: amount - node.total.get(name, 0) for name, amount in demand.items()}
        return {name: amount for name, amount in missing.items() if amount > 0}

    def distance(node: NodeRow) -> tuple[int, float]:
        missing = lacks(node)
        return len(missing), sum(amount / demand[name] for name, amount in missing.items())

    nearest = min(nodes, key=distance)
    return (
        f"No node of the cluster can ever serve {from_units(demand)}. Nearest is node "
        f"{nearest.node_id.hex()[:8]} on {nearest.host}, which lacks {from_units(lacks(nearest))}. "
        "The request waits: ask for less, or add a node that has it."
    )
