"""Detached cells of notebooks that end with their cluster, which whoever ends it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psutil

from nbray.common.detached_cells import NOTEBOOKS, ROWS, running_name
from nbray.launcher.found import FoundNode
from nbray.state.client import StateClient
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import RpcError

_ASK_S = 1.0
_AT_ONCE = 200


def running_cells(nodes: Sequence[FoundNode]) -> list[str]:
    """The names of those that run in the clusters whose heads are among these nodes.

    A GCS that does not answer within a second is not waited for: its cluster is to end.
    """
    return [name for node in nodes if _is_head(node) for name in asyncio.run(_of(node))]


def _is_head(node: FoundNode) -> bool:
    try:
        return any("nbray.gcs" in process.cmdline() for process in node.processes)
    except psutil.Error:  # it ends already
        return False


async def _of(node: FoundNode) -> list[str]:
    try:
        async with StateClient.of_session(node.gcs_address, node.session) as gcs:
            keys = (await gcs.call("KvKeys", g.KvKey(NOTEBOOKS, ROWS), g.KvKeys, _ASK_S)).keys
            rows: list[bytes | None] = []
            for place in range(0, len(keys), _AT_ONCE):
                many = g.KvMany(NOTEBOOKS, keys[place : place + _AT_ONCE])
                rows += (await gcs.call("KvGetMany", many, g.KvValues, _ASK_S)).values
    except (RpcError, OSError, ValueError):
        return []
    return [name for row in rows if row is not None and (name := running_name(row))]
