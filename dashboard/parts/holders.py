"""The table of the processes that hold objects, which several pages show."""

from __future__ import annotations

from nbray.state.rows import HolderState

from .html import join, link, ref
from .table import Column, Table
from .words import size_text

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
