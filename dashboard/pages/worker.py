"""One process of the cluster: what it runs, how it ended, its logs."""

from __future__ import annotations

import asyncio

from nbray.state.client import RpcError
from nbray.state.rows import TaskState, WorkerState

from ..parts import logs
from ..parts.html import Markup, code, facts, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section, find
from ..parts.table import Column, Table
from ..parts.task_words import seconds, state
from ..parts.words import clock, duration, last_line, size_text

TASKS = Table[TaskState](
    [
        Column("id", "task", lambda t: t.task_id, lambda t: ref("task", t.task_id)),
        Column("name", "function", lambda t: t.name, lambda t: ref("task", t.task_id, t.name)),
        Column("state", "state", lambda t: t.state, state, choices=True),
        Column("took", "took", seconds, lambda t: duration(seconds(t)), number=True),
        Column(
            "error",
            "error",
            lambda t: t.error_message,
            lambda t: code(last_line(t.error_message)[:200]) if t.error_message else "",
        ),
    ],
    "task",
    "the newest first",
    "t.",
)


async def show(look: Look) -> list[Section]:
    """One process."""
    workers, _missing = await look.cluster.workers()
    worker = find(
        workers, look.get("id"), "process", lambda w: w.worker_id, lambda w: (str(w.pid),)
    )
    tasks = await look.cluster.tasks()
    mine = [row for row in tasks.rows if row.worker_id == worker.worker_id]
    mine.sort(key=lambda row: (row.state != "RUNNING", -(row.end_time_ms or 0)))
    title = join(
        (
            f"{'Driver' if worker.worker_type == 'DRIVER' else 'Worker'} pid {worker.pid} ",
            code(worker.worker_id),
        )
    )
    profile = (
        link("Stack and flame graph", "profile", id=worker.worker_id) if worker.is_alive else ""
    )
    return [
        Section("worker", title, _facts(worker), tag("span", profile) if profile else Markup("")),
        look.table("tasks", "Its tasks, as far as they are remembered", TASKS, mine),
        await _log(look, worker),
    ]


def _facts(worker: WorkerState) -> Markup:
    return facts(
        [
            ("state", "lives" if worker.is_alive else tag("span", "ended", class_="dim")),
            ("is", worker.activity.lower()),
            ("CPU", f"{worker.cpu_percent:.0f} %" if worker.is_alive else ""),
            ("memory", size_text(worker.rss_bytes) if worker.rss_bytes else ""),
            ("actor", ref("actor", worker.actor_id)),
            ("job", ref("job", worker.job_id)),
            ("node", ref("node", worker.node_id)),
            ("since", clock(worker.start_time_ms)),
            ("ended", clock(worker.end_time_ms)),
            ("how it ended", worker.exit_type or ""),
            ("why", tag("pre", worker.exit_detail) if worker.exit_detail else ""),
            ("what it owns", link("objects", "objects", worker=worker.worker_id)),
        ]
    )


async def _log(look: Look, worker: WorkerState) -> Section:
    if worker.worker_type == "DRIVER":
        why = "A driver writes where it was started."
        return Section("log", "Log", tag("p", why, class_="dim"))
    names = [logs.log_name(worker.worker_id, suffix) for suffix in ("err", "out")]
    title = join(
        ("Log ", join([link(name, "logs", node=worker.node_id, name=name) for name in names], ", "))
    )
    try:
        texts = await asyncio.gather(
            *(logs.read(look.cluster, worker.node_id, name, 500) for name in names)
        )
    except RpcError as error:
        return Section("log", title, tag("p", f"The node does not answer: {error}", class_="bad"))
    parts: list[Markup] = []
    for name, text in zip(names, texts, strict=True):
        if text:
            parts += [muted(name), logs.shown(logs.chosen(text))]
    return Section("log", title, join(parts) or tag("p", "Nothing was written.", class_="dim"))


PAGES = (Page("worker", "Process", show, "nodes", needs_id=True),)
