"""The table of the processes that hold objects, which several pages show."""

from __future__ import annotations

from collections.abc import Sequence

from nbray.state.rows import HolderState

from .html import join, link, ref
from .table import Column, Table
from .words import count, size_text

HOLDERS = Table[HolderState](
    [
        Column(
            "pid",
            "process",
            lambda h: h.pid,
            lambda h: join((h.type.lower(), " ", ref("worker", h.worker_id, f"pid {h.pid}"))),
        ),
        Column(
            "objects",
            "objects",
            lambda h: h.owned,
            lambda h: link(f"{h.owned:,}", "objects", worker=h.worker_id),
            number=True,
        ),
        Column(
            "bytes",
            "bytes",
            lambda h: h.owned_bytes,
            lambda h: size_text(h.owned_bytes),
            number=True,
        ),
        Column("node", "node", lambda h: h.node_id, lambda h: ref("node", h.node_id)),
    ],
    "holder",
    "the largest first",
    "h.",
)


def owners(holders: Sequence[HolderState]) -> tuple[list[HolderState], list[str]]:
    """Those that own something, the largest first, and a sentence on the others."""
    found = sorted((one for one in holders if one.owned), key=lambda one: -one.owned_bytes)
    others = len(holders) - len(found)
    return found, [f"{count(others, 'process', 'processes')} beside own nothing."] if others else []
