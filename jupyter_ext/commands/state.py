"""``%nbray actors``, ``workers``, ``tasks``: what the cluster is doing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbray.notebook import ActorState, engine

from ..output.counts import counts_now
from ..output.router import OF_NO_CELL
from ..pictures.tables import Table, as_bytes, resource_amounts
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_COUNTS_S = 5.0
_MOST = 200


def _living() -> list[ActorState]:
    return engine().state.list_actors(filters=[("state", "!=", "DEAD")], limit=10_000)


def actor_names(_workspace: Workspace) -> list[str]:
    """The names of the actors that live."""
    return sorted({actor.name for actor in _living() if actor.name})


def actor_words(workspace: Workspace, _given: Sequence[str]) -> list[str]:
    """Names and ids of the actors that live."""
    ids = [actor.actor_id[:12] for actor in _living()]
    return actor_names(workspace) + ids


def _actor_arguments(parser: Parser) -> None:
    parser.add_argument("actor", metavar="ACTOR", nargs="?", help="a name, or how an id begins")
    parser.add_argument("--all", action="store_true", help="also the dead ones")


def _actors(_workspace: Workspace, arguments: argparse.Namespace) -> object:
    wanted = arguments.actor
    found = sorted(
        engine().state.list_actors(detail=True, limit=10_000), key=lambda row: row.state == "DEAD"
    )
    actors = [
        actor
        for actor in found
        if (arguments.all or wanted or actor.state != "DEAD")
        and (wanted is None or actor.name == wanted or actor.actor_id.startswith(wanted))
    ]
    shown = actors[:_MOST]
    rows = [
        (
            actor.actor_id[:12], actor.name or "", actor.class_name, actor.state,
            (actor.node_id or "")[:12], actor.pid or "",
            ", ".join(resource_amounts(actor.required_resources or {})),
        )
        for actor in shown
    ]  # fmt: skip
    notes = [
        f"{actor.class_name} {actor.actor_id[:12]} died: {actor.death_text}"
        for actor in shown
        if actor.death_cause
    ]
    if len(shown) < len(actors):
        notes.insert(0, f"{len(shown)} of {len(actors)} actors are shown, the living first.")
    if not rows:
        return Table((), (), notes=["No actor" + (f" is called {wanted!r}." if wanted else ".")])
    return Table(("id", "name", "class", "state", "node", "pid", "resources"), rows, notes=notes)


def _workers(_workspace: Workspace, _arguments: argparse.Namespace) -> object:
    rows = [
        (worker.pid, worker.worker_type.lower(), worker.activity.lower(), worker.node_id[:12],
         as_bytes(worker.rss_bytes))
        for worker in engine().state.list_workers(
            filters=[("is_alive", "=", True)], limit=10_000, raise_on_missing_output=False
        )
    ]  # fmt: skip
    return Table(("pid", "type", "activity", "node", "memory"), rows)


def _tasks(_workspace: Workspace, _arguments: argparse.Namespace) -> object:
    functions: dict[str, list[int]] = {}
    for row in counts_now(_COUNTS_S):  # one for each cell that submitted some
        if row.origin == OF_NO_CELL:
            continue
        numbers = (
            row.submitted, row.unfinished - row.running, row.running, row.done, row.failed,
            row.cancelled,
        )  # fmt: skip
        so_far = functions.get(row.name, [0] * len(numbers))
        functions[row.name] = [before + more for before, more in zip(so_far, numbers, strict=True)]
    if not functions:
        return Table((), (), notes=["This notebook has submitted no task yet."])
    rows = [(name, *numbers) for name, numbers in functions.items()]
    return Table(
        ("function", "submitted", "queued", "running", "done", "failed", "cancelled"), rows
    )


COMMANDS = (
    Command(
        "actors", "The actors, or one of them.", _actors, _actor_arguments, {"actor": actor_words}
    ),
    Command("workers", "The processes that run tasks and actors.", _workers),
    Command("tasks", "The tasks of this notebook, by function.", _tasks),
)
