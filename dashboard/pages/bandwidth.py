"""Bandwidth: how much of objects goes from which node to which, as the receivers count it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbray.state.rows import NodeState

from ..parts.html import Markup, join, muted, ref, tag
from ..parts.page import Look, Page, Section
from ..parts.table import Column, Table
from ..parts.words import size_text

_MOST_IN_MATRIX = 24


@dataclass(frozen=True)
class Flow:
    """What one node has given to another."""

    giver: str
    receiver: str
    bytes: int
    rate: float | None


FLOWS = Table[Flow](
    [
        Column("from", "from node", lambda f: f.giver, lambda f: ref("node", f.giver)),
        Column("to", "to node", lambda f: f.receiver, lambda f: ref("node", f.receiver)),
        Column(
            "rate",
            "now, a second",
            lambda f: f.rate,
            lambda f: "" if f.rate is None else size_text(f.rate),
            number=True,
        ),
        Column("bytes", "in all", lambda f: f.bytes, lambda f: size_text(f.bytes), number=True),
    ],
    "pair of nodes",
    "the fastest first",
    plural="pairs of nodes",
)


def flows(nodes: Sequence[NodeState], rates: Mapping[tuple[str, str], float]) -> list[Flow]:
    """All pairs between which something went, the fastest first."""
    found = [
        Flow(giver, node.node_id, number, rates.get((giver, node.node_id)))
        for node in nodes
        for giver, number in node.received_from.items()
        if number
    ]
    return sorted(found, key=lambda flow: (-(flow.rate or 0.0), -flow.bytes))


def matrix(found: Sequence[Flow]) -> Markup:
    """Givers from above to below, receivers from left to right, the darker the more."""
    names = list(dict.fromkeys(name for flow in found for name in (flow.giver, flow.receiver)))
    if not 1 < len(names) <= _MOST_IN_MATRIX:
        return Markup("")
    most = max(flow.bytes for flow in found)
    known = {(flow.giver, flow.receiver): flow for flow in found}
    head = tag("tr", tag("th", "from \\ to"), *(tag("th", ref("node", name)) for name in names))
    rows = []
    for giver in names:
        cells = []
        for receiver in names:
            flow = known.get((giver, receiver))
            if flow is None:
                cells.append(tag("td", "", class_="number"))
                continue
            rate = f"{size_text(flow.rate)}/s" if flow.rate else ""
            text = join((size_text(flow.bytes), tag("div", rate, class_="dim")))
            style = f"background:rgba(47,129,247,{0.08 + 0.5 * flow.bytes / most:.2f})"
            cells.append(tag("td", text, class_="number heat", style=style))
        rows.append(tag("tr", tag("th", ref("node", giver)), *cells))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="matrix")
    return tag("div", table, class_="scroll")


async def show(look: Look) -> list[Section]:
    """The matrix, and all pairs."""
    nodes = [node for node in await look.cluster.nodes() if node.state == "ALIVE"]
    counts = {
        (giver, node.node_id): number
        for node in nodes
        for giver, number in node.received_from.items()
    }
    found = flows(nodes, look.flows.of(counts))
    title = join(("Bandwidth between nodes ", muted("of objects, since both joined")))
    notes = ["Each node tells of the 32 that gave it the most."] if len(nodes) > 33 else []
    total = sum(flow.bytes for flow in found)
    now = sum(flow.rate or 0.0 for flow in found)
    words = (
        f"{size_text(total)} in all, {size_text(now)} a second now." if found else "Nothing yet."
    )
    return [
        Section("matrix", title, join((tag("p", words), matrix(found)))),
        look.table("flows", "Pairs", FLOWS, found, notes),
    ]


PAGES = (Page("bandwidth", "Bandwidth", show, "nodes"),)
