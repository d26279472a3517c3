"""``nbray status``: nodes, resources, what waits and why, and what failed lately."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nbray.cli.console import SafeConsole
from nbray.cli.scaling import show_scaling
from nbray.cli.terminal import CliError
from nbray.common.text import one_line
from nbray.launcher.found import found_nodes
from nbray.launcher.tls import ends_soon
from nbray.state import queries as q
from nbray.state.client import StateClient, dashboard_trouble, find_cluster, find_dashboard
from nbray.state.rows import DemandState, FailureState, NodeState, PlacementGroupState
from nbray.state.scaling import SCALING, ScalingState
from nbray.state.text import size_text
from nbray.wire.grpc_service import RpcError

_FAILURES_SHOWN = 10
_DEAD_SHOWN = 10
_BYTES = ("memory", "object_store_memory")


@dataclass
class _Status:
    nodes: list[NodeState]
    demand: list[DemandState]
    failures: list[FailureState]
    groups: list[PlacementGroupState]
    scaling: ScalingState | None


@click.command()
@click.option("--address", help="HOST:PORT of the head node; the newest cluster here by default.")
@click.option("-v", "--verbose", is_flag=True, help="Also all that waits, node by node.")
def status(address: str | None, verbose: bool) -> None:
    """Show a cluster: its nodes, what is in use, what waits and why, what failed lately."""
    try:
        found, token = find_cluster(address)
        state = asyncio.run(_ask(found, token))
    except (RpcError, OSError, ValueError) as error:
        raise CliError(str(error)) from error
    console = SafeConsole(highlight=False, soft_wrap=False)
    for node in found_nodes():
        if node.gcs_address == found and node.processes and (said := ends_soon(node.session)):
            console.print(said, style="red", markup=False, soft_wrap=True)
    _show_nodes(console, found, state.nodes, verbose, verbose or state.scaling is not None)
    if state.scaling is not None:
        show_scaling(console, state.scaling, state.nodes, verbose)
    _show_usage(console, state.nodes)
    _show_demand(console, state.demand, verbose)
    _show_groups(console, state.groups, verbose)
    _show_failures(console, state.failures)
    _show_dashboard(console, found, token)


async def _ask(address: str, token: bytes) -> _Status:
    async with StateClient(address, token) as client:
        return _Status(
            *await asyncio.gather(
                client.ask(q.NODES, 5.0),
                client.ask(q.DEMAND, 5.0),
                client.ask(q.FAILURES, 5.0),
                client.ask(q.PLACEMENT_GROUPS, 5.0),
                client.ask(SCALING, 5.0),
            )
        )


def _show_nodes(
    console: Console, address: str, nodes: list[NodeState], verbose: bool, kept_by: bool
) -> None:
    table = Table(title=f"Cluster {address}", title_justify="left")
    columns = ("node", "host", "state", "in use", "object store", "kept by")
    for column in columns if kept_by else columns[:-1]:
        table.add_column(column)
    living = [node for node in nodes if node.state == "ALIVE"]
    dead = [node for node in nodes if node.state != "ALIVE"]
    shown = dead if verbose else dead[:_DEAD_SHOWN]
    for node in [*sorted(living, key=lambda row: (not row.is_head_node, row.node_id)), *shown]:
        name = node.node_id[:8] + (" (head)" if node.is_head_node else "")
        if node.state != "ALIVE":
            why = escape(one_line(node.state_message or ""))
            table.add_row(name, node.node_ip, f"dead: {why}", "", "")
            continue
        used, capacity = (node.stats.get(key, 0.0) for key in ("store_used", "store_total"))
        state = f"alive, {node.state_message}" if node.state_message else "alive"
        table.add_row(
            name, node.node_ip, one_line(state),
            escape("\n".join(_usage(node.resources_total, node.resources_available))),
            f"{size_text(used)} of {size_text(capacity)}", *([_kept_by(node)] if kept_by else []),
        )  # fmt: skip
    console.print(table)
    if len(shown) < len(dead):
        console.print(f"{len(shown)} of {len(dead)} dead nodes are shown; -v shows all.")


def _kept_by(node: NodeState) -> str:
    """What keeps a node from leaving, or for how long nothing has."""
    return escape("\n".join(map(one_line, node.kept_by))) or f"idle for {node.idle_s:.0f} s"


def _show_usage(console: Console, nodes: list[NodeState]) -> None:
    alive = [node for node in nodes if node.state == "ALIVE"]
    total = _sum([node.resources_total for node in alive])
    available = _sum([node.resources_available for node in alive])
    console.print("[bold]Resources in use[/bold]")
    for line in _usage(total, available):
        console.print(f"  {escape(line)}")


def _show_demand(console: Console, demand: list[DemandState], verbose: bool) -> None:
    """What can never be served is always told, node by node only if ``verbose``."""
    console.print("[bold]Demand[/bold]")
    if not demand:
        console.print("  Nothing waits for resources.")
    for row in sorted(demand, key=lambda row: (row.reason is None, -row.waiting_s)):
        shape = ", ".join(f"{name} {_amount(name, n)}" for name, n in row.resources.items())
        kind = row.kind if row.count == 1 else f"{row.kind}s"
        where = ""
        if verbose:
            where = f", at node {row.node_id[:8]}" if row.node_id else ", at the GCS"
        line = (
            f"  {row.count} {kind} of {shape or 'no resources'}, for {row.waiting_s:.0f} s{where}"
        )
        console.print(escape(one_line(line)), soft_wrap=True)
        for why in [row.reason] if row.reason else row.lacking if verbose else []:
            style = "red" if row.reason else "default"
            console.print(f"    {one_line(why)}", style=style, markup=False, soft_wrap=True)


def _show_groups(console: Console, groups: list[PlacementGroupState], verbose: bool) -> None:
    """How many there are, and why some wait."""
    living = [row for row in groups if row.state != "REMOVED"]
    if not living:
        return
    waiting = [row for row in living if row.state != "CREATED"]
    console.print("[bold]Placement groups[/bold]")
    console.print(f"  {len(living) - len(waiting)} created, {len(waiting)} waiting")
    for row in waiting if verbose else waiting[:_FAILURES_SHOWN]:
        name = one_line(row.name) or row.placement_group_id[:8]
        line = f"  {name}, {row.strategy}, {row.state}: {one_line(' '.join(row.reasons))}"
        console.print(line, markup=False, soft_wrap=True)


def _show_failures(console: Console, failures: list[FailureState]) -> None:
    console.print("[bold]Recent failures[/bold]")
    if not failures:
        console.print("  None.")
    for row in failures[-_FAILURES_SHOWN:]:
        when = time.strftime("%H:%M:%S", time.localtime(row.time_ms / 1000))
        where = f" on node {row.node_id[:8]}" if row.node_id and row.kind != "node" else ""
        first_line = row.cause.partition("\n")[0]
        name = f"{row.id[:8]} on {row.name}" if row.kind == "node" else row.name
        line = f"  {when} {row.kind} {one_line(name)}{where}: {one_line(first_line)}"
        console.print(line, markup=False, soft_wrap=True)


def _show_dashboard(console: Console, address: str, token: bytes) -> None:
    """Where it is, or in one line why it is not there."""
    found = find_dashboard(address, token)
    url = found.url if found else ""
    trouble = found.probe() if found else dashboard_trouble(address)
    if not url and not trouble:
        return  # it was left out
    console.print("[bold]Dashboard[/bold]")
    if url and trouble:
        trouble = f"The dashboard at {url} does not serve: {trouble}. Its log is dashboard.log."
    line = (
        trouble
        or f"{found.base if found else url}/ (nbray dashboard prints a link that logs you in)"
    )
    console.print(f"  {line}", style="red" if trouble else "default", markup=False, soft_wrap=True)


def _sum(amounts: list[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in amounts:
        for name, amount in one.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _usage(total: dict[str, float], available: dict[str, float]) -> list[str]:
    return [
        f"{one_line(name)} {_amount(name, amount - available.get(name, 0.0))}"
        f" of {_amount(name, amount)}"
        for name, amount in sorted(total.items())
        if not name.startswith("node:")
    ]


def _amount(name: str, amount: float) -> str:
    return size_text(amount) if name in _BYTES else f"{amount:g}"
