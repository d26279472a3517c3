"""``%nbray who``: the notebook's names whose values live in the cluster. It fetches nothing."""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from nbray.notebook import ActorState, engine

from ..cell.remote_value import RemoteValue
from ..pictures.tables import Table, as_bytes, count
from ..words import quoted, shortened
from .base import Command
from .objects import SHOWN, counted, named, refs_in
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_DEPTH = 3
_NODE = 8
_ANSWER_S = 5


def _arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="*", help="only these; by default all")


def _names(workspace: Workspace, _given: Sequence[str]) -> list[str]:
    return [name for name, _ in _remote(workspace)]


def _remote(workspace: Workspace) -> Iterator[tuple[str, Any]]:
    """Names and values, of those that are in the cluster or hold what is."""
    api = engine().api
    for name, value in sorted(named(workspace), key=itemgetter(0)):
        if (
            isinstance(value, (RemoteValue, api.ActorHandle))
            or next(refs_in(value, _DEPTH), None) is not None
        ):
            yield name, value


def _who(workspace: Workspace, arguments: argparse.Namespace) -> object:
    found = [
        (name, value)
        for name, value in _remote(workspace)
        if not arguments.name or name in arguments.name
    ]
    if not found:
        asked = f" of {', '.join(map(quoted, arguments.name))}" if arguments.name else ""
        return Table((), (), notes=[f"No name{asked} of this notebook lives in the cluster."])
    hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in engine().api.nodes()}
    actors = _actors() if any(isinstance(v, engine().api.ActorHandle) for _, v in found) else {}
    sized, total = list[tuple[int, tuple[str, ...]]](), 0
    for name, value in found:
        kind, size, nodes, state, label = _row(workspace, value, actors)
        total += size or 0
        places = [f"{node[:_NODE]} ({hosts[node]})" if node in hosts else node for node in nodes]
        told = "" if size is None else as_bytes(size)
        sized.append((size or 0, (shortened(name), kind, told, ", ".join(places), state, label)))
    if len(sized) > SHOWN:
        sized = heapq.nlargest(SHOWN, sized, key=itemgetter(0))
    rows = [row for _, row in sized]
    columns = ("name", "what", "size", "in", "state", "from")
    notes = [
        f"{count(len(found), 'name')}, {as_bytes(total)}. A name is read when a cell uses it; "
        "%nbray objects has all that this notebook keeps there."
    ]
    if len(rows) < len(found):
        notes.insert(
            0, f"The largest {SHOWN} of {len(found):,} are shown; name others to see them."
        )
    return Table(columns, rows, notes=notes)


_Row = tuple[str, int | None, list[str], str, str]
"""What it is, its bytes, where it lies, its state, and the cell that made it."""


def _row(workspace: Workspace, value: Any, actors: dict[str, ActorState]) -> _Row:
    if isinstance(value, RemoteValue):
        known = value.describe()
        shared = " (with others that it shares parts with)" if value.among else ""
        return known.kind + shared, known.size, [*known.places], known.state, value.run.label
    if isinstance(value, engine().api.ActorHandle):
        row = actors.get(value._actor_id.hex())
        state = "" if row is None else row.state.lower()
        node = [] if row is None or not row.node_id else [row.node_id]
        return f"actor {'' if row is None else row.class_name}".strip(), None, node, state, ""
    refs = list(refs_in(value, _DEPTH))
    facts = [engine().tasks.describe(ref) for ref in refs]
    sizes = [fact.size for fact in facts if fact.size is not None]
    nodes = sorted({node.hex() for fact in facts for node in fact.nodes})
    if any(fact.inline for fact in facts):
        nodes.append("this process")
    labels = sorted({label for fact in facts if (label := workspace.router.label(fact.origin))})
    alone = isinstance(value, engine().api.ObjectRef)
    kind = f"ref of {facts[0].kind}" if alone and facts[0].kind else type(value).__name__
    if not alone:
        kind += f" with {counted(refs)}"
    states = ", ".join(sorted({fact.state for fact in facts}))
    return kind, sum(sizes) if sizes else None, nodes, states, ", ".join(labels)


def _actors() -> dict[str, ActorState]:
    rows = engine().state.list_actors(limit=10_000, timeout=_ANSWER_S)
    return {row.actor_id: row for row in rows}


COMMANDS = (
    Command("who", "Names that live in the cluster: what they are, sizes, nodes, and their cells.",
            _who, _arguments, {"name": _names}),
)  # fmt: skip
