"""One task: its attempts, where and how long, its error, its log lines, parents and children."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from nbray.state.client import RpcError
from nbray.state.rows import TaskState

from ..parts import logs
from ..parts.family import attempts_of
from ..parts.html import Markup, code, facts, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section
from ..parts.table import Column, Table
from ..parts.task_words import seconds, state
from ..parts.words import amounts, clock, duration, last_line

_MOST_LINKS = 12

CHILDREN = Table[TaskState](
    [
        Column("name", "function", lambda t: t.name, lambda t: ref("task", t.task_id, t.name)),
        Column("id", "task", lambda t: t.task_id, lambda t: ref("task", t.task_id)),
        Column("state", "state", lambda t: t.state, state, choices=True),
        Column(
            "error",
            "error",
            lambda t: t.error_message,
            lambda t: code(last_line(t.error_message)[:200]) if t.error_message else "",
        ),
        Column("took", "took", seconds, lambda t: duration(seconds(t)), number=True),
        Column("node", "node", lambda t: t.node_id, lambda t: ref("node", t.node_id)),
    ],
    "task",
    prefix="c.",
)


async def show(look: Look) -> list[Section]:
    """One task."""
    attempts, children, takers = await attempts_of(look, look.get("id"))
    newest = attempts[0]
    title = join(("Task ", newest.name, " ", code(newest.task_id)))
    sections = [
        Section("task", title, _facts(newest, len(attempts), takers)),
        Section("time", "Where the time went", _times(attempts)),
    ]
    if newest.error_message or newest.error_type:
        body = tag("pre", newest.error_message or newest.error_type or "")
        sections.insert(1, Section("error", tag("span", "Error", class_="bad"), body))
    sections.append(await _log(look, newest))
    sections.append(
        look.table("children", "Tasks that it has submitted", CHILDREN, children)
        if children
        else Section(
            "children",
            "Tasks that it has submitted",
            tag("p", "None that is remembered.", class_="dim"),
        )
    )
    return sections


def _facts(task: TaskState, attempts: int, takers: Sequence[TaskState]) -> Markup:
    return facts(
        [
            ("state", join((state(task), f" {task.error_type}" if task.error_type else ""))),
            ("function", link(task.func_or_class_name, "tasks", name=task.func_or_class_name)),
            ("attempts that are remembered", attempts),
            ("node", ref("node", task.node_id)),
            ("worker", ref("worker", task.worker_id, f"pid {task.worker_pid}")),
            ("actor", ref("actor", task.actor_id)),
            ("job", ref("job", task.job_id)),
            ("submitted by", ref("task", task.parent_task_id)),
            (
                "graphs",
                join(
                    [
                        link("who submitted whom", "graph", id=task.task_id),
                        link("whose results go where", "graph", id=task.task_id, by="results"),
                    ],
                    ", ",
                ),
            ),
            ("takes results of", _producers(task)),
            ("its results go to", _takers(takers)),
            ("resources", amounts(task.required_resources)),
            ("cell", f"number {task.origin}" if task.origin else ""),
        ]
    )


def _producers(task: TaskState) -> Markup | str:
    shown = [ref("task", one) for one in task.depends_on[:_MOST_LINKS]]
    return _and_more(shown, len(task.depends_on) + task.depends_on_more)


def _takers(takers: Sequence[TaskState]) -> Markup | str:
    return _and_more([ref("task", t.task_id, t.name) for t in takers[:_MOST_LINKS]], len(takers))


def _and_more(shown: list[Markup], of: int) -> Markup | str:
    more = muted(f" and {of - len(shown):,} more") if of > len(shown) else ""
    return join((join(shown, " "), more)) if of else ""


def _times(attempts: Sequence[TaskState]) -> Markup:
    """For each attempt, how long it was in each state, as far as that is known."""
    rows = []
    for row in attempts:
        moments = sorted(
            ((event["state"], event["created_ms"]) for event in row.events or []),
            key=lambda pair: pair[1],
        )
        words = []
        for (name, began), (_next, ended) in itertools.pairwise(moments):
            shown = "waited" if name.startswith("PENDING") else "ran"
            words.append(f"{shown} {duration((ended - began) / 1000)}")
        if moments and row.state not in ("FINISHED", "FAILED"):
            words.append(f"{row.state.lower()} since {clock(moments[-1][1])}")
        first = clock(moments[0][1]) if moments else ""
        rows.append(
            tag(
                "tr",
                tag("td", f"{row.attempt_number + 1}"),
                tag("td", state(row)),
                tag("td", first),
                tag("td", ", ".join(words) or muted("not known: it was too short")),
                tag("td", ref("node", row.node_id)),
                tag("td", ref("worker", row.worker_id, f"pid {row.worker_pid}")),
                tag("td", code(last_line(row.error_message)[:200]) if row.error_message else ""),
            )
        )
    head = tag(
        "tr",
        *(
            tag("th", name)
            for name in ("attempt", "state", "from", "times", "node", "worker", "error")
        ),
    )
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag("div", table, class_="scroll")


async def _log(look: Look, task: TaskState) -> Section:
    if not (task.node_id and task.worker_id):
        why = "It has not run in a worker, so no log has lines of it."
        return Section("log", "Log", tag("p", why, class_="dim"))
    node, worker = task.node_id, task.worker_id
    names = [logs.log_name(worker, suffix) for suffix in ("err", "out")]
    known = {
        info[f"{stream}_file"]: info[f"{stream}_end"]
        for info in [task.task_log_info or {}]
        if info
        for stream in ("stdout", "stderr")
    }
    title = join(
        [
            "Log, up to its end: " if known else "Log of its worker, the last lines: ",
            join([link(name, "logs", node=node, name=name) for name in names], ", "),
        ]
    )
    try:
        texts = await asyncio.gather(*(_lines(look, node, name, known) for name in names))
    except RpcError as error:
        return Section("log", title, tag("p", f"The node does not answer: {error}", class_="bad"))
    parts = []
    for name, text in zip(names, texts, strict=True):
        if text is None:
            parts.append(tag("p", f"{name} is not there any more.", class_="dim"))
        elif text:
            parts += [muted(name), logs.shown(logs.chosen(text))]
    return Section("log", title, join(parts) or tag("p", "Nothing was written.", class_="dim"))


async def _lines(look: Look, node: str, name: str, known: dict[str, int]) -> str | None:
    if name in known:
        return await logs.read_before(look.cluster, node, name, known[name])
    return await logs.read(look.cluster, node, name, 200)


PAGES = (Page("task", "Task", show, "tasks", needs_id=True),)
