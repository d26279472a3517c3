"""``nbray status``: the nodes of a cluster, as its GCS knows them."""

from __future__ import annotations

import asyncio

import click
from rich.console import Console
from rich.table import Table

from nbray.common.resources import from_units
from nbray.launcher.local import found_nodes
from nbray.launcher.token import load_token
from nbray.wire.gcs_messages import Empty, Nodes
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.messages import NodeInfo


@click.command()
@click.option("--address", help="HOST:PORT of the head node; the newest cluster here by default.")
def status(address: str | None) -> None:
    """Show the nodes of a cluster and what they have left."""
    try:
        found, token = _cluster(address)
        nodes = asyncio.run(_nodes(found, token))
    except (RpcError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    _show(found, nodes)


def _cluster(address: str | None) -> tuple[str, bytes]:
    """Address and token: of a cluster with a node here, or of the user's token elsewhere."""
    for node in found_nodes():
        if node.processes and address in (None, node.gcs_address):
            return node.gcs_address, node.session.token
    if address is None:
        raise ConnectionError("No cluster runs here. Start one with: nbray start --head")
    return address, load_token(create=False)


async def _nodes(address: str, token: bytes) -> list[NodeInfo]:
    client = GrpcClient(address, token)
    try:
        return (await client.call("ListNodes", Empty(), Nodes, timeout=5.0)).nodes
    finally:
        await client.close()


def _show(address: str, nodes: list[NodeInfo]) -> None:
    table = Table(title=f"Cluster {address}", title_justify="left")
    for column in ("node", "host", "state", "in use", "object store", "pending leases"):
        table.add_column(column)
    for node in sorted(nodes, key=lambda row: (not row.is_head, row.node_id)):
        name = node.node_id.hex()[:8] + (" (head)" if node.is_head else "")
        if not node.alive:
            table.add_row(name, node.host, f"dead: {node.death_cause or 'it left'}", "", "", "")
            continue
        used, capacity = (node.stats.get(key, 0.0) for key in ("store_used", "store_total"))
        table.add_row(
            name, node.host, "alive", _usage(node), f"{_size(used)} of {_size(capacity)}",
            f"{node.stats.get('pending_leases', 0.0):.0f}",
        )  # fmt: skip
    Console().print(table)


def _usage(node: NodeInfo) -> str:
    free = from_units(node.available)
    lines = []
    for name, total in sorted(from_units(node.total).items()):
        used = total - free.get(name, 0.0)
        amounts = (_size(used), _size(total)) if name == "memory" else (f"{used:g}", f"{total:g}")
        lines.append(f"{name} {amounts[0]} of {amounts[1]}")
    return "\n".join(lines)


def _size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
