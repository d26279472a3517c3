"""The first view: what runs, how far it is, what waits and why, what failed lately."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from nbray.state.rows import DemandState, FunctionCount, NodeState, TaskList, TaskState, TaskTotals

from ..parts.html import Markup, code, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section
from ..parts.words import ago, amounts, count, duration, first_line, last_line, size_text

_MOST_WAITING = 12
_MOST_FAILED = 12
_MOST_FUNCTIONS = 12
_PLOTS = ("tasks", "waiting", "cpu", "memory", "store", "network", "disk", "nodes")


async def show(look: Look) -> list[Section]:
    """The sections."""
    await look.spans.look()
    nodes, totals, actors, demand, failures, tasks = await asyncio.gather(
        look.cluster.nodes(),
        look.cluster.totals(),
        look.cluster.actors(),
        look.cluster.demand(),
        look.cluster.failures(),
        look.cluster.tasks(),
    )
    now = time.time() * 1000
    alive = [node for node in nodes if node.state == "ALIVE"]
    living = sum(actor.state != "DEAD" for actor in actors)
    failed = _failed(tasks)
    from ..parts.plots import PLOTS

    return [
        Section("summary", "This cluster", _tiles(alive, nodes, living, totals, tasks, demand)),
        Section("stream", _stream_title(), _legend(look), plot="task-stream"),
        Section("progress", link("Progress", "tasks"), progress(totals, tasks), wide=False),
        Section("waiting", "Waiting, and why", waiting(demand, nodes), wide=False),
        Section(
            "failed", _failed_title(totals, failed), failed_lately(failed, now, totals), wide=False
        ),
        Section(
            "ended",
            link("Processes that ended unasked", "events"),
            join(
                [
                    tag(
                        "ul",
                        *(
                            tag(
                                "li",
                                _of(failure.kind, failure.id, failure.node_id, failure.name),
                                " ",
                                first_line(failure.cause),
                                " ",
                                muted(f"{ago(failure.time_ms, now)} ago"),
                            )
                            for failure in failures[:_MOST_FAILED]
                        ),
                        class_="plain",
                    )
                    if failures
                    else tag("p", "None.", class_="dim"),
                    _more(len(failures), _MOST_FAILED, "events"),
                ]
            ),
            wide=False,
        ),
        *(
            Section(
                f"plot-{name}", link(PLOTS[name].title, "plot", name=name), plot=name, wide=False
            )
            for name in _PLOTS
        ),
    ]


def _of(kind: str, identity: str, node_id: str | None, name: str) -> Markup:
    if kind in ("actor", "node", "worker"):
        return join((f"{kind} ", ref(kind, identity), f" {name}"))
    return join((f"{kind} {name}", ref("node", node_id)))


def _more(there: int, most: int, page: str, **query: object) -> Markup:
    if there <= most:
        return Markup("")
    return tag("p", f"{most} of {there:,} are shown: ", link("all", page, **query), class_="note")


def _tile(value: object, name: object) -> Markup:
    return tag("div", tag("b", value), tag("span", name), class_="tile")


def _tiles(
    alive: Sequence[NodeState],
    nodes: Sequence[NodeState],
    actors: int,
    totals: TaskTotals,
    tasks: TaskList,
    demand: Sequence[DemandState],
) -> Markup:
    used, total = _sum(alive, "store_used"), _sum(alive, "store_total")
    dead = len(nodes) - len(alive)
    return tag(
        "div",
        _tile(
            link(f"{len(alive):,}", "nodes"), "nodes alive" + (f", {dead:,} dead" if dead else "")
        ),
        _tile(_cpus(alive), "CPUs in use, as scheduled"),
        _tile(
            size_text(_sum(alive, "memory_used")),
            f"of {size_text(_sum(alive, 'memory_total'))} memory",
        ),
        _tile(
            link(size_text(used), "objects"),
            f"of {size_text(total)} object store"
            + (
                f", {size_text(spilled)} spilled"
                if (spilled := _sum(alive, "store_spilled"))
                else ""
            ),
        ),
        _tile(link(f"{actors:,}", "actors"), "actors"),
        _tile(link(f"{sum(tasks.unfinished.values()):,}", "tasks"), "tasks not ended"),
        _tile(f"{sum(row.count for row in demand):,}", "wait for resources, at least"),
        _tile(f"{totals.finished:,}", "tasks finished"),
        _tile(
            link(f"{totals.failed:,}", "tasks", state="FAILED"),
            tag("span", "tasks failed", class_="bad" if totals.failed else None),
        ),
        class_="tiles",
    )


def _sum(nodes: Sequence[NodeState], key: str) -> float:
    return sum(node.stats.get(key, 0.0) for node in nodes)


def _cpus(nodes: Sequence[NodeState]) -> str:
    total = sum(node.resources_total.get("CPU", 0.0) for node in nodes)
    free = sum(node.resources_available.get("CPU", 0.0) for node in nodes)
    return f"{total - free:g} of {total:g}"


def _stream_title() -> Markup:
    return join((link("Task stream", "timeline"), muted(", the last minute")))


def _legend(look: Look) -> Markup:
    from ..parts.spans import BAD

    names = list(dict.fromkeys(span.name for span in look.spans.since(time.time() * 1000 - 60_000)))
    if not names:
        return tag("p", "No task has run in the last minute.", class_="dim")
    parts = [
        tag(
            "span",
            tag("i", style=f"background:{look.spans.colour(name)}"),
            link(name, "tasks", name=name),
        )
        for name in names[:_MOST_FUNCTIONS]
    ]
    parts.append(tag("span", tag("i", style=f"background:{BAD}"), "failed"))
    if len(names) > _MOST_FUNCTIONS:
        parts.append(muted(f"and {count(len(names) - _MOST_FUNCTIONS, 'function')} more"))
    return tag("div", *parts, class_="legend")


def progress(totals: TaskTotals, tasks: TaskList) -> Markup:
    """A bar for each function: done, failed, running, waiting."""
    running: dict[str, int] = {}
    for row in tasks.rows:
        if row.state == "RUNNING":
            running[row.func_or_class_name] = running.get(row.func_or_class_name, 0) + 1
    counts = {f.name: f for f in totals.functions}
    names = sorted(
        {*counts, *tasks.unfinished},
        key=lambda name: (-tasks.unfinished.get(name, 0), _ended(counts, name)),
    )
    rows = []
    for name in names[:_MOST_FUNCTIONS]:
        function = counts.get(name)
        done = function.finished if function else 0
        failed = function.failed + function.cancelled if function else 0
        left = tasks.unfinished.get(name, 0)
        now = min(left, running.get(name, 0))
        total = max(1, done + failed + left)
        words = f"{done + failed:,} of {total:,}" if done + failed + left else "0"
        if now:
            words += f", {now:,} run"
        if failed:
            words += f", {failed:,} failed"
        spans = [
            tag("span", class_=kind, style=f"width:{100 * share / total:.2f}%")
            for kind, share in (("done", done), ("failed", failed), ("running", now))
        ]
        rows.append(
            tag(
                "li",
                link(name, "tasks", name=name),
                " ",
                muted(words),
                tag("div", *spans, class_="bar"),
            )
        )
    if not rows:
        return tag("p", "No task has been submitted yet.", class_="dim")
    return join((tag("ul", *rows, class_="plain"), _more(len(names), _MOST_FUNCTIONS, "tasks")))


def _ended(counts: dict[str, FunctionCount], name: str) -> int:
    found = counts.get(name)
    return -(found.finished + found.failed) if found is not None else 0


def waiting(demand: Sequence[DemandState], nodes: Sequence[NodeState]) -> Markup:
    """What waits for resources, how long, and why."""
    rows = []
    for row in sorted(demand, key=lambda row: (row.reason is None, -row.waiting_s))[:_MOST_WAITING]:
        why = (
            tag("span", row.reason, class_="bad")
            if row.reason
            else join([tag("span", text) for text in row.lacking[:3]], " ")
        )
        rows.append(
            tag(
                "li",
                tag("b", count(row.count, row.kind)),
                f" with {amounts(row.resources) or 'nothing'}",
                ", ",
                duration(row.waiting_s // 1 or 1),
                " ",
                tag("div", why),
                muted(join(("at node ", ref("node", row.node_id)))) if row.node_id else "",
            )
        )
    if not rows:
        return tag("p", "Nothing waits for resources.", class_="dim")
    return join((tag("ul", *rows, class_="plain"), _more(len(demand), _MOST_WAITING, "events")))


def _failed(tasks: TaskList) -> list[TaskState]:
    rows = [r for r in tasks.rows if r.state == "FAILED" and r.error_type != "TASK_CANCELLED"]
    return sorted(rows, key=lambda row: -(row.end_time_ms or 0.0))


def _failed_title(totals: TaskTotals, failed: Sequence[TaskState]) -> Markup:
    return join(
        (
            link("Failed lately", "tasks", state="FAILED"),
            muted(f", {totals.failed:,} since the cluster began"),
        )
    )


def failed_lately(failed: Sequence[TaskState], now: float, totals: TaskTotals) -> Markup:
    """What failed with the last line of its error; the same failures once, with their number."""
    groups: dict[tuple[str, str], list[TaskState]] = {}
    for row in failed:
        groups.setdefault((row.name, last_line(row.error_message)), []).append(row)
    items = []
    for (name, text), rows in list(groups.items())[:_MOST_FAILED]:
        newest = rows[0]
        many = (
            link(f" {len(rows):,} times", "tasks", state="FAILED", name=name)
            if len(rows) > 1
            else ""
        )
        items.append(
            tag(
                "li",
                tag("a", name or "task", href=f"task?id={newest.task_id}"),
                many,
                " ",
                muted(f"{ago(newest.end_time_ms, now)} ago"),
                tag("div", code(text or newest.error_type or ""), class_="bad"),
            )
        )
    if not items:
        none = "None." if not totals.failed else "None that is remembered."
        return tag("p", none, class_="dim")
    return join(
        (
            tag("ul", *items, class_="plain"),
            _more(len(groups), _MOST_FAILED, "tasks", state="FAILED"),
        )
    )


PAGES = (Page("", "Overview", show),)
