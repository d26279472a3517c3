"""``%nbray scale``: more or fewer nodes.

``%nbray scale 3`` adds and removes nodes on this machine; in a cluster with an autoscaler, and with
``%nbray scale 2..20`` anywhere, the autoscaler is told the bounds.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from nbray.exceptions import NbrayError
from nbray.notebook import engine
from nbray.options.option import Scope

from ..pictures.tables import count
from ..words import positive
from .base import Command
from .cluster import status
from .parser import Parser, add_declared

if TYPE_CHECKING:
    from ..workspace import Workspace

_NODE_S = 30.0


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "nodes", metavar="N", type=_range,
        help="how many nodes the cluster shall have, all told; with an autoscaler: besides the "
        "head, as 4, or as 2..20",
    )  # fmt: skip
    parser.add_argument("--type", metavar="TYPE", help="of which type there shall be so many")
    parser.add_argument("--num-cpus", type=positive, metavar="C", help="CPUs of each new node")
    add_declared(parser, Scope.START, ["object_store_memory"])
    parser.add_argument("--yes", action="store_true", help="also remove nodes that work")


def _range(word: str) -> tuple[int, int]:
    """One number, or two with dots between them."""
    low, dots, high = word.partition("..")
    least, most = int(low), int(high if dots else low)
    if not 0 <= least <= most:
        raise ValueError(word)
    return least, most


def _scale(_workspace: Workspace, arguments: argparse.Namespace) -> object:
    least, most = arguments.nodes
    if least != most or engine().cluster.scaling() is not None:
        return _set_bounds(arguments)
    return _scale_here(least, arguments)


def _set_bounds(arguments: argparse.Namespace) -> object:
    """Tell the autoscaler, which does it by itself."""
    least, most = arguments.nodes
    for name in ("num_cpus", "object_store_memory", "yes"):
        if getattr(arguments, name, None):
            flag = name.replace("_", "-")
            raise UsageError(f"%nbray scale: --{flag} is for nodes that this notebook adds itself.")
    try:
        engine().cluster.set_bounds(least, most, arguments.type or "")
    except ValueError as error:
        raise UsageError(f"%nbray scale: {error}.") from error
    print(f"The autoscaler keeps {least} to {most} nodes: %nbray status shows what comes and goes.")
    return status()


def _scale_here(wanted: int, arguments: argparse.Namespace) -> object:
    """Add and remove nodes on this machine."""
    alive = _alive()
    more = wanted - len(alive)
    if more < 0:
        for node_id in _to_remove(alive, -more, arguments.yes):
            engine().cluster.nodes.remove(node_id)
            _wait_until_alive(node_id, False)
    for _ in range(more):
        try:
            node_id = engine().cluster.nodes.add(
                num_cpus=arguments.num_cpus, object_store_memory=arguments.object_store_memory
            )
        except (NbrayError, OSError, ValueError) as error:
            raise UsageError(f"%nbray scale: {error}") from error
        _wait_until_alive(node_id, True)
    return status()


def _to_remove(alive: set[str], wanted: int, also_busy: bool) -> list[str]:
    """The nodes that go: those that do nothing first, of them the newest.

    Raises:
        UsageError: so many were not added from here, or one works and ``also_busy`` is not set.
    """
    added = [node_id for node_id in reversed(engine().cluster.nodes.added()) if node_id in alive]
    if wanted > len(added):
        raise UsageError(
            f"%nbray scale: {count(len(added), 'node')} of {len(alive)} can be removed from here, "
            "those that this notebook added."
        )
    work = _work()
    chosen = sorted(added, key=lambda node_id: bool(work.get(node_id)))[:wanted]
    busy = [f"{node_id[:8]} runs {work[node_id]}" for node_id in chosen if work.get(node_id)]
    if busy and not also_busy:
        raise UsageError(
            f"%nbray scale: node {', node '.join(busy)}. Actors end with their node, tasks are run "
            "again elsewhere: --yes removes it all the same."
        )
    return chosen


def _work() -> dict[str, str]:
    """What runs on each node that is not idle, in words."""
    found: dict[str, Counter[str]] = {}
    for worker in engine().state.list_workers(
        filters=[("is_alive", "=", True)], limit=10_000, raise_on_missing_output=False
    ):
        if worker.activity in ("BUSY", "ACTOR"):
            what = "actor" if worker.activity == "ACTOR" else "task"
            found.setdefault(worker.node_id, Counter())[what] += 1
    return {
        node_id: " and ".join(count(number, what) for what, number in sorted(kinds.items()))
        for node_id, kinds in found.items()
    }


def _alive() -> set[str]:
    return {node["NodeID"] for node in engine().api.nodes() if node["Alive"]}


def _wait_until_alive(node_id: str, alive: bool) -> None:
    """Until the cluster's table says so, which the next cell reads."""
    deadline = time.monotonic() + _NODE_S
    while (node_id in _alive()) != alive:
        if time.monotonic() > deadline:
            what = "join" if alive else "leave"
            raise UsageError(
                f"%nbray scale: node {node_id[:8]} did not {what} within {_NODE_S:g} s; "
                "its log is in %nbray logs."
            )
        time.sleep(0.02)


def _numbers(_workspace: Workspace, _given: Sequence[str]) -> list[str]:
    here = len(_alive())
    fewest = max(1, here - len(engine().cluster.nodes.added()))
    return [str(number) for number in range(fewest, here + 3)]


COMMANDS = (
    Command("scale", "More or fewer nodes: %nbray scale 3, %nbray scale 2..20.", _scale, _arguments,
            {"nodes": _numbers}),
)  # fmt: skip
