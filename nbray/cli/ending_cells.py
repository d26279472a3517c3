"""Detached cells of notebooks that end with their cluster, which whoever ends it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import psutil

from nbray.common.detached_cells import NOTEBOOKS, ROWS, running_name
from nbray.common.session import GCS
from nbray.launcher.found import FoundNode
from nbray.wire import gcs_messages as g
from nbray.wire.near_calls import NearCallError, NearCalls

_ASK_S = 1.0
_AT_ONCE = 200
_T = TypeVar("_T")


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
    gcs = NearCalls(node.session.calls_path(GCS), node.session.token)
    try:
        keys = (await _ask(gcs, "KvKeys", g.KvKey(NOTEBOOKS, ROWS), g.KvKeys)).keys
        rows: list[bytes | None] = []
        for place in range(0, len(keys), _AT_ONCE):
            many = g.KvMany(NOTEBOOKS, keys[place : place + _AT_ONCE])
            rows += (await _ask(gcs, "KvGetMany", many, g.KvValues)).values
    except (NearCallError, OSError, ValueError):  # also of a timeout, or a reply that is none
        return []
    finally:
        gcs.close()
    return [name for row in rows if row is not None and (name := running_name(row))]


async def _ask(gcs: NearCalls, method: str, request: Any, reply: type[_T]) -> _T:
    answer = await gcs.call(method, msgspec.msgpack.encode(request), _ASK_S)
    if answer is None:
        raise ConnectionError("the GCS has gone")
    return msgspec.msgpack.decode(answer, type=reply)
