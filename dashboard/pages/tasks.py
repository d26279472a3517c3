"""Tasks: by function, exactly counted; and single ones, as far as they are remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from nbray.state.rows import TaskList, TaskState, TaskTotals

from ..parts.html import code, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section
from ..parts.rates import ended as ended_by_function
from ..parts.spans import by_function
from ..parts.table import Column, Table
from ..parts.task_words import seconds, state
from ..parts.words import clock, count, duration, figures, last_line

_RATE_MS = 60_000


@dataclass(frozen=True)
class Function:
    """What is known of the tasks of one function."""

    name: str
    unfinished: int
    running: int
    finished: int
    failed: int
    cancelled: int
    rate: float | None
    typical: float | None
    longest: float | None


def functions(
    totals: TaskTotals, tasks: TaskList, took: dict[str, list[float]], rates: dict[str, float]
) -> list[Function]:
    """All functions, those with the most to do first."""
    counts = {row.name: row for row in totals.functions}
    running: dict[str, int] = {}
    for row in tasks.rows:
        if row.state == "RUNNING":
            name = (
                row.name
                if row.name in counts or row.name in tasks.unfinished
                else row.func_or_class_name
            )
            running[name] = running.get(name, 0) + 1
    names = {*counts, *tasks.unfinished, *running}
    found = []
    for name in names:
        known = counts.get(name)
        times = took.get(name, [])
        found.append(
            Function(
                name,
                tasks.unfinished.get(name, 0),
                running.get(name, 0),
                known.finished if known else 0,
                known.failed if known else 0,
                known.cancelled if known else 0,
                rates.get(name),
                median(times) if times else None,
                max(times) if times else None,
            )
        )
    return sorted(found, key=lambda f: (-f.running, -f.unfinished, -f.finished - f.failed, f.name))


def _count(value: int, kind: str = "") -> object:
    return tag("span", f"{value:,}", class_=kind if value else "dim")


FUNCTIONS = Table[Function](
    [
        Column(
            "name",
            "function",
            lambda f: f.name,
            lambda f: link(f.name or "(no name)", "tasks", name=f.name),
        ),
        Column("queued", "queued", lambda f: max(0, f.unfinished - f.running), number=True),
        Column("running", "running", lambda f: f.running, number=True),
        Column("finished", "finished", lambda f: f.finished, number=True),
        Column(
            "failed",
            "failed",
            lambda f: f.failed,
            lambda f: (
                link(f"{f.failed:,}", "tasks", name=f.name, state="FAILED")
                if f.failed
                else _count(0)
            ),
            number=True,
        ),
        Column(
            "cancelled",
            "cancelled",
            lambda f: f.cancelled,
            lambda f: _count(f.cancelled),
            number=True,
        ),
        Column(
            "rate",
            "per second",
            lambda f: f.rate,
            lambda f: "" if f.rate is None else figures(f.rate),
            number=True,
        ),
        Column(
            "typical",
            "typically took",
            lambda f: f.typical,
            lambda f: duration(f.typical),
            number=True,
        ),
        Column(
            "longest",
            "longest lately",
            lambda f: f.longest,
            lambda f: duration(f.longest),
            number=True,
        ),
    ],
    "function",
    "those that run first",
    "f.",
)


def tasks_table(prefix: str = "") -> Table[TaskState]:
    """Single tasks."""
    return Table(
        [
            Column("id", "task", lambda t: t.task_id, lambda t: ref("task", t.task_id)),
            Column("name", "function", lambda t: t.name, lambda t: ref("task", t.task_id, t.name)),
            Column("state", "state", lambda t: t.state, state, choices=True),
            Column(
                "error",
                "error",
                lambda t: t.error_message or t.error_type,
                lambda t: code(last_line(t.error_message)[:200]) if t.error_message else "",
            ),
            Column("took", "took", seconds, lambda t: duration(seconds(t)), number=True),
            Column(
                "began",
                "began",
                lambda t: t.start_time_ms or t.creation_time_ms,
                lambda t: clock(t.start_time_ms or t.creation_time_ms),
            ),
            Column("attempt", "attempt", lambda t: t.attempt_number + 1, number=True),
            Column(
                "worker",
                "worker",
                lambda t: t.worker_id,
                lambda t: ref("worker", t.worker_id, f"pid {t.worker_pid}"),
            ),
            Column("node", "node", lambda t: t.node_id, lambda t: ref("node", t.node_id)),
            Column("job", "job", lambda t: t.job_id, lambda t: ref("job", t.job_id)),
            Column("actor", "actor", lambda t: t.actor_id, hidden=True),
        ],
        "task",
        "what runs, then the newest",
        prefix,
    )


TASKS = tasks_table()


def in_order(rows: Sequence[TaskState]) -> list[TaskState]:
    """What runs, what failed last, and the newest of the others."""
    rank = {"RUNNING": 0, "FAILED": 1, "FINISHED": 2}
    return sorted(
        rows,
        key=lambda row: (rank.get(row.state, 3), -(row.end_time_ms or row.start_time_ms or 0.0)),
    )


def left_out(tasks: TaskList) -> list[str]:
    """Sentences on what the rows lack."""
    notes = [f"Missing: {text}." for text in tasks.missing]
    unfinished = sum(tasks.unfinished.values())
    listed = sum(row.state not in ("FINISHED", "FAILED") for row in tasks.rows)
    if unfinished > listed:
        notes.append(f"{count(unfinished, 'task')} have not ended; the first of them are listed.")
    if tasks.dropped:
        notes.append(
            f"{count(tasks.dropped, 'task')} that ended are not remembered one by one: of many "
            "short ones a sample is kept. The counts by function are exact."
        )
    if tasks.silent:
        notes.append(f"{count(tasks.silent, 'process', 'processes')} did not answer in time.")
    return notes


async def show(look: Look) -> list[Section]:
    """By function, and one by one."""
    totals, tasks, _none = await asyncio.gather(
        look.cluster.totals(), look.cluster.tasks(), look.spans.look()
    )
    now = time.time() * 1000
    spans = look.spans.since(now - _RATE_MS)
    rows = functions(totals, tasks, by_function(spans), look.rates.of(ended_by_function(totals)))
    ended = totals.finished + totals.failed + totals.cancelled
    title = join(("By function ", muted(f"{ended:,} have ended, {totals.failed:,} of them failed")))
    one_by_one = look.table("tasks", "One by one", TASKS, in_order(tasks.rows), left_out(tasks))
    by = look.table("functions", title, FUNCTIONS, rows)
    return [one_by_one, by] if look.get("name") or look.get("state") else [by, one_by_one]


PAGES = (Page("tasks", "Tasks", show, period_s=1.5),)
