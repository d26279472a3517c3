"""What the autoscaler does, in Ray's sections; ``nbray scale`` and ``nbray drain-node``."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable

import click
import msgspec
from rich.console import Console

from nbray.cli.terminal import CliError
from nbray.common.text import one_line
from nbray.state.client import StateClient, find_cluster
from nbray.state.queries import NODES
from nbray.state.rows import NodeState
from nbray.state.scaling import SCALING as SCALING_NOW
from nbray.state.scaling import InstanceState, ScalingState
from nbray.wire.gcs_messages import KvCount, KvDel, KvPut
from nbray.wire.grpc_service import RpcError
from nbray.wire.scaling_messages import BOUNDS, SCALING, Bounds, Drained, DrainNode, Hold

_SHOWN = 10
_LINES_SHOWN = 6
_STALE_S = 15.0
_ANSWER_S = 30.0
_LOOK_S = 0.5
_ASK_S = 15.0
_PATIENCE_S = 30.0


def show_scaling(
    console: Console, state: ScalingState, nodes: list[NodeState], verbose: bool
) -> None:
    """The sections of Ray's status that are the autoscaler's."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.at))
    console.print(f"[bold]======== Autoscaler status: {when} ========[/bold]")
    late = time.time() - state.at
    troubles = list(state.troubles)
    if late > _STALE_S:
        troubles.insert(
            0,
            f"The autoscaler has said nothing for {late:.0f} s: see autoscaler.log"
            " and raylet.log of the head.",
        )
    for text in troubles:
        console.print(f"  {one_line(text)}", style="red", markup=False, soft_wrap=True)
    bounds = ", ".join(f"{name} {low} to {high}" for name, (low, high) in state.bounds.items())
    _line(console, f"{state.cluster}: {bounds}; at most {state.most} nodes besides the head")
    idle = {node.node_id for node in nodes if node.state == "ALIVE" and not node.kept_by}
    running = [row for row in state.instances if row.state == "RUNNING"]
    _counts(console, "Active", [row for row in running if row.node_id not in idle])
    _counts(console, "Idle", [row for row in running if row.node_id in idle])
    for title, states in (
        ("Pending", ("QUEUED", "REQUESTED", "STARTING")),
        ("Leaving", ("DRAINING", "TERMINATING")),
    ):
        _rows(console, title, [row for row in state.instances if row.state in states], verbose)
    if verbose:
        _rows(console, "Running", running, verbose)
    console.print("[bold]Recent failures of launches[/bold]")
    if not state.failures:
        console.print("  (no failures)")
    for failure in state.failures[-_SHOWN:]:
        at = time.strftime("%H:%M:%S", time.localtime(failure.when))
        _line(console, f"{at} {failure.type}: {failure.why}")
        lines = failure.lines.rstrip().splitlines()
        for text in lines if verbose else lines[-_LINES_SHOWN:]:
            _line(console, f"  {text}")
    console.print("[bold]From request_resources[/bold]")
    requested = Counter(str(bundle) for bundle in state.requested)
    for shape, count in list(requested.items())[:_SHOWN] or [("(none)", 0)]:
        _line(console, f"{shape}: {count}" if count else shape)
    if state.unmet:
        console.print("[bold]Demand without a node to come[/bold]")
        for text in state.unmet if verbose else state.unmet[:_SHOWN]:
            _line(console, text)


def _counts(console: Console, title: str, rows: Iterable[InstanceState]) -> None:
    console.print(f"[bold]{title}[/bold]")
    counts = Counter(row.type for row in rows)
    for kind, count in counts.items():
        _line(console, f"{count} {kind}")
    if not counts:
        console.print("  (no nodes)")


def _rows(console: Console, title: str, rows: list[InstanceState], verbose: bool) -> None:
    console.print(f"[bold]{title}[/bold]")
    if not rows:
        console.print("  (no nodes)")
    shown = rows if verbose else rows[:_SHOWN]
    for row in shown:
        words = [row.place, row.why] if row.state != "RUNNING" else row.kept_by
        told = ", ".join(word for word in words if word)
        _line(console, f"{row.id}: {row.type}, {row.state}{': ' if told else ''}{told}")
    if len(shown) < len(rows):
        _line(console, f"and {len(rows) - len(shown)} more; -v shows all.")


def _line(console: Console, text: str) -> None:
    console.print(f"  {one_line(text)}", markup=False, soft_wrap=True)


@click.command("drain-node")
@click.option("--node-id", required=True, help="The node, or the first characters of its id.")
@click.option(
    "--reason", required=True, type=click.Choice(
        ["DRAIN_NODE_REASON_IDLE_TERMINATION", "DRAIN_NODE_REASON_PREEMPTION"]
    ),
    help="IDLE_TERMINATION: only if it has no work. PREEMPTION: what runs has until the deadline.",
)  # fmt: skip
@click.option("--reason-message", required=True, help="Why, for whoever looks.")
@click.option(
    "--deadline-remaining-seconds", type=click.IntRange(0), default=0, show_default=True,
    help="What runs has so long to end; 0: as long as it takes.",
)  # fmt: skip
@click.option("--address", help="HOST:PORT of the head node; the newest cluster here by default.")
def drain_node(
    node_id: str, reason: str, reason_message: str, deadline_remaining_seconds: int,
    address: str | None,
) -> None:  # fmt: skip
    """Have a node take no new work, hand its values on, and leave."""
    try:
        found, token = find_cluster(address)
        only_idle = reason == "DRAIN_NODE_REASON_IDLE_TERMINATION"
        answer = asyncio.run(
            _drain(
                found, token, node_id, reason_message, float(deadline_remaining_seconds), only_idle
            )
        )
    except (RpcError, OSError, ValueError) as error:
        raise CliError(str(error)) from error
    if not answer.accepted:
        raise CliError(f"The node was not drained: {answer.why}")
    click.echo("The node drains: it takes no new work, and leaves when it has none.")


async def _drain(
    address: str, token: bytes, node_id: str, why: str, deadline_s: float, only_idle: bool
) -> Drained:
    async with StateClient(address, token) as client:
        known = [row.node_id for row in await client.ask(NODES, _ASK_S) if row.state == "ALIVE"]
        matching = [one for one in known if one.startswith(node_id.lower())]
        if len(matching) != 1:
            raise ValueError(f"{len(matching)} living nodes have an id that begins with {node_id}.")
        began = time.monotonic()
        while True:  # a raylet that stands still for a moment would lose what is only there
            since = time.monotonic() - began
            left_s = max(1.0, deadline_s - since) if deadline_s else 0.0
            request = DrainNode(bytes.fromhex(matching[0]), why, left_s, only_idle)
            answer = await client.call("DrainNode", request, Drained, _ASK_S)
            if not answer.silent or since > _PATIENCE_S:
                return answer
            await asyncio.sleep(_LOOK_S)


def _bounds(word: str, kind: str) -> Bounds | None:
    """What a word of the command says; None: what the file says.

    Raises:
        click.BadParameter: it is none.
    """
    if word == "file":
        return None
    if word in (Hold.NONE, Hold.LEAST):
        return Bounds(0, 0, hold=Hold(word))
    low, dots, high = word.partition("..")
    try:
        least, most = int(low), int(high if dots else low)
    except ValueError:
        least, most = 1, 0
    if not 0 <= least <= most:
        raise click.BadParameter(
            f"{word!r} is no number, no range as 2..20, and none of none, least and file.",
            param_hint="NODES",
        )
    return Bounds(least, most, kind)


@click.command()
@click.argument("nodes")
@click.option("--type", "kind", default="", help="Of which type there are to be so many at least; "
              "the first of the file by default.")  # fmt: skip
@click.option("--wait", "patience_s", type=click.FloatRange(0), default=0.0, metavar="SECONDS",
              help="Wait until those that are too many have left.")  # fmt: skip
@click.option("--address", help="HOST:PORT of the head node; the newest cluster here by default.")
def scale(nodes: str, kind: str, patience_s: float, address: str | None) -> None:
    """Have the autoscaler keep NODES nodes besides the head: 4, or 2..20.

    With `least`, those that the file wants at least stay and no other comes; with `none`, none;
    with `file` its bounds hold again. Nodes that go end what runs there, and hand values on.
    """
    bounds = _bounds(nodes, kind)
    try:
        found, token = find_cluster(address)
        left = asyncio.run(_scale(found, token, bounds, patience_s))
    except (RpcError, OSError, ValueError) as error:
        raise CliError(str(error)) from error
    if left:
        raise CliError(
            f"After {patience_s:g} s {len(left)} node(s) still end what runs there, and leave "
            f"then: {', '.join(left[:_SHOWN])}."
        )


async def _scale(address: str, token: bytes, bounds: Bounds | None, patience_s: float) -> list[str]:
    """Tell the autoscaler; the instances that are too many when it is over."""
    async with StateClient(address, token) as client:
        state = await client.ask(SCALING_NOW, _ANSWER_S)
        if state is None:
            raise ValueError(
                "This cluster has no autoscaler: it is started with the head, by `nbray start "
                "--head --autoscaling-config=FILE` or `nbray up FILE`."
            )
        if bounds is not None and bounds.type and bounds.type not in state.bounds:
            raise ValueError(
                f"{bounds.type!r} is none of its node types: {', '.join(state.bounds)}."
            )
        if bounds is None:
            await client.call("KvDel", KvDel(SCALING, BOUNDS), KvCount, _ANSWER_S)
            return []
        value = msgspec.msgpack.encode(bounds)
        await client.call("KvPut", KvPut(SCALING, BOUNDS, value), KvCount, _ANSWER_S)
        deadline = time.monotonic() + patience_s
        left: list[str] = []
        while time.monotonic() < deadline:
            now = await client.ask(SCALING_NOW, _ANSWER_S)
            if now is not None and _is_of(now, bounds):
                left = _too_many(now, bounds)
                if not left:
                    break
            await asyncio.sleep(_LOOK_S)
        return left


def _is_of(state: ScalingState, bounds: Bounds) -> bool:
    """Whether a look was at these bounds already."""
    if bounds.hold is Hold.NO:
        return state.most == bounds.most
    most = max((high for _, high in state.bounds.values()), default=0)
    return (
        most == 0
        if bounds.hold is Hold.NONE
        else all(low == high for low, high in state.bounds.values())
    )


def _too_many(state: ScalingState, bounds: Bounds) -> list[str]:
    """Instances beyond what is to be left."""
    by_type: dict[str, list[str]] = {}
    for row in state.instances:
        by_type.setdefault(row.type, []).append(row.place or row.id)
    if bounds.hold is Hold.NO:
        every = [name for names in by_type.values() for name in names]
        return every[bounds.most :]
    return [
        name for kind, names in by_type.items()
        for name in names[0 if bounds.hold is Hold.NONE else state.bounds.get(kind, (0, 0))[0] :]
    ]  # fmt: skip
