"""Profile: what a running process does now, as stacks and as a flame graph."""

from __future__ import annotations

from nbray.state.rows import WorkerState

from ..parts.html import join, link, ref, tag
from ..parts.page import Look, Page, Section
from ..parts.table import Column, Table


async def show(look: Look) -> list[Section]:
    """The processes that can be profiled."""
    workers, missing = await look.cluster.workers()
    rows = [worker for worker in workers if worker.is_alive]
    rows.sort(key=lambda worker: -worker.cpu_percent)
    table: Table[WorkerState] = Table(
        [
            Column(
                "pid",
                "process",
                lambda w: w.pid,
                lambda w: link(f"{w.activity.lower()} pid {w.pid}", "profile", id=w.worker_id),
            ),
            Column(
                "cpu",
                "CPU",
                lambda w: w.cpu_percent,
                lambda w: f"{w.cpu_percent:.0f} %",
                number=True,
            ),
            Column("node", "node", lambda w: w.node_id, lambda w: ref("node", w.node_id)),
        ],
        "process",
        "the busiest first",
        plural="processes",
    )
    return [
        look.table("processes", join(("Profile", tag("span", " a process"))), table, rows, missing)
    ]


PAGES = (Page("profile", "Profile", show),)
