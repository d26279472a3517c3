"""Actors, and one: its state, restarts and causes, calls by method, log, and a way to end it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from nbray.state import queries as q
from nbray.state.client import RpcError
from nbray.state.rows import ActorState, TaskState, WorkerState

from ..parts import logs
from ..parts.cluster import TASK_LIMIT
from ..parts.html import Markup, code, facts, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section, find
from ..parts.table import Column, Table
from ..parts.task_words import seconds, state
from ..parts.words import ago, amounts, clock, duration, first_line, last_line, size_text

ACTORS = Table[ActorState](
    [
        Column("id", "actor", lambda a: a.actor_id, lambda a: ref("actor", a.actor_id)),
        Column(
            "class",
            "class",
            lambda a: a.class_name,
            lambda a: ref("actor", a.actor_id, a.repr_name or a.class_name),
        ),
        Column("name", "name", lambda a: a.name),
        Column("state", "state", lambda a: a.state, lambda a: actor_state(a), choices=True),
        Column("restarts", "restarts", lambda a: a.num_restarts or 0, number=True),
        Column(
            "pid",
            "pid",
            lambda a: a.pid,
            lambda a: ref("worker", a.worker_id, f"{a.pid}") if a.pid else "",
            number=True,
        ),
        Column("node", "node", lambda a: a.node_id, lambda a: ref("node", a.node_id)),
        Column("job", "job", lambda a: a.job_id, lambda a: ref("job", a.job_id)),
        Column("namespace", "namespace", lambda a: a.ray_namespace, hidden=True),
        Column("group", "group", lambda a: a.placement_group_id, hidden=True),
        Column("cause", "cause", lambda a: a.death_text, hidden=True),
        Column("resources", "resources", lambda a: amounts(a.required_resources)),
    ],
    "actor",
    "the living first",
)


def actor_state(actor: ActorState) -> Markup:
    """Its state, and why."""
    kind = {"ALIVE": "good", "DEAD": "dim"}.get(actor.state, "warn")
    why = first_line(actor.death_text) if actor.state == "DEAD" else actor.pending_reason or ""
    word = actor.state.lower().replace("_", " ")
    return join(
        (tag("span", word, class_=kind), tag("div", why[:300], class_="dim") if why else "")
    )


async def show(look: Look) -> list[Section]:
    """All actors."""
    actors = await look.cluster.actors()
    living = sum(actor.state != "DEAD" for actor in actors)
    title = join(("Actors ", muted(f"{living:,} live, {len(actors) - living:,} have ended")))
    return [look.table("actors", title, ACTORS, actors)]


@dataclass(frozen=True)
class Method:
    """What is known of the calls of one method."""

    name: str
    pending: int
    running: int
    ended: int
    failed: int
    typical: float | None
    longest: float | None


METHODS = Table[Method](
    [
        Column("name", "method", lambda m: m.name),
        Column("pending", "pending", lambda m: m.pending, number=True),
        Column("running", "running", lambda m: m.running, number=True),
        Column("ended", "ended, remembered", lambda m: m.ended, number=True),
        Column("failed", "failed", lambda m: m.failed, number=True),
        Column(
            "typical",
            "typically took",
            lambda m: m.typical,
            lambda m: duration(m.typical),
            number=True,
        ),
        Column(
            "longest", "longest", lambda m: m.longest, lambda m: duration(m.longest), number=True
        ),
    ],
    "method",
    prefix="m.",
)

CALLS = Table[TaskState](
    [
        Column("id", "call", lambda t: t.task_id, lambda t: ref("task", t.task_id)),
        Column("name", "method", lambda t: t.name, lambda t: ref("task", t.task_id, t.name)),
        Column("state", "state", lambda t: t.state, state, choices=True),
        Column("took", "took", seconds, lambda t: duration(seconds(t)), number=True),
        Column("began", "began", lambda t: t.start_time_ms, lambda t: clock(t.start_time_ms)),
        Column(
            "error",
            "error",
            lambda t: t.error_message,
            lambda t: code(last_line(t.error_message)[:200]) if t.error_message else "",
        ),
        Column(
            "by",
            "submitted by",
            lambda t: t.parent_task_id,
            lambda t: ref("task", t.parent_task_id),
        ),
    ],
    "call",
    "what runs, then the newest",
    "c.",
)


def methods(calls: Sequence[TaskState]) -> list[Method]:
    """The calls by method."""
    names: dict[str, list[TaskState]] = {}
    for row in calls:
        names.setdefault(row.func_or_class_name, []).append(row)
    found = []
    for name, rows in names.items():
        times = sorted(seconds(row) or 0.0 for row in rows if row.end_time_ms and row.start_time_ms)
        ended = sum(row.state in ("FINISHED", "FAILED") for row in rows)
        running = sum(row.state == "RUNNING" for row in rows)
        found.append(
            Method(
                name,
                len(rows) - ended - running,
                running,
                ended,
                sum(row.state == "FAILED" for row in rows),
                times[len(times) // 2] if times else None,
                times[-1] if times else None,
            )
        )
    return sorted(found, key=lambda method: (-method.pending - method.running, method.name))


async def show_one(look: Look) -> list[Section]:
    """One actor."""
    actors = await look.cluster.actors()
    actor = find(actors, look.get("id"), "actor", lambda a: a.actor_id, lambda a: (a.name,))
    calls, (workers, _missing) = await asyncio.gather(
        look.cluster.ask(q.tasks(TASK_LIMIT, of=bytes.fromhex(actor.actor_id)), 2.0),
        look.cluster.workers(),
    )
    rows = [row for row in calls.rows if row.actor_id == actor.actor_id]
    rank = {"RUNNING": 0, "FAILED": 1, "FINISHED": 1}
    rows.sort(
        key=lambda row: (rank.get(row.state, 2), -(row.end_time_ms or row.start_time_ms or 0))
    )
    mine = [worker for worker in workers if worker.actor_id == actor.actor_id]
    title = join(("Actor ", actor.repr_name or actor.class_name, " ", code(actor.actor_id)))
    button = Markup("")
    if actor.state != "DEAD":
        button = look.button(
            "end-actor",
            "End this actor",
            "It ends for good, and what was called on it fails.",
            id=actor.actor_id,
        )
    notes = [f"Missing: {text}." for text in calls.missing]
    notes.append("Of many short calls a sample is remembered.")
    return [
        Section("actor", title, _facts(actor, mine), button),
        look.table("methods", "Calls by method", METHODS, methods(rows), notes[:-1]),
        look.table("calls", "Calls", CALLS, rows, notes),
        Section("processes", "Its processes", _processes(mine), wide=False),
        await _log(look, actor, mine),
    ]


def _facts(actor: ActorState, workers: Sequence[WorkerState]) -> Markup:
    live = next((worker for worker in workers if worker.is_alive), None)
    return facts(
        [
            ("state", actor_state(actor)),
            ("class", link(actor.class_name, "actors", **{"class": actor.class_name})),
            ("name", actor.name or ""),
            ("namespace", actor.ray_namespace or ""),
            ("detached", "yes" if actor.is_detached else "no"),
            ("restarts", actor.num_restarts or 0),
            ("node", ref("node", actor.node_id)),
            ("process", ref("worker", actor.worker_id, f"pid {actor.pid}") if actor.pid else ""),
            ("CPU", f"{live.cpu_percent:.0f} %" if live else ""),
            ("memory", size_text(live.rss_bytes) if live else ""),
            ("job", ref("job", actor.job_id)),
            ("placement group", ref("group", actor.placement_group_id)),
            ("resources", amounts(actor.required_resources) or "none"),
            (
                "since",
                f"{clock(actor.start_time_ms)}, {ago(actor.start_time_ms, time.time() * 1000)}"
                if actor.start_time_ms
                else "",
            ),
            ("waits", actor.pending_reason or ""),
            ("ended because", tag("pre", actor.death_text) if actor.death_text else ""),
            (
                "runtime environment",
                code(actor.serialized_runtime_env)
                if actor.serialized_runtime_env not in (None, "", "{}")
                else "",
            ),
        ]
    )


def _processes(workers: Sequence[WorkerState]) -> Markup:
    if not workers:
        return tag("p", "None is remembered.", class_="dim")
    items = [
        tag(
            "li",
            ref("worker", worker.worker_id, f"pid {worker.pid}"),
            " ",
            "lives"
            if worker.is_alive
            else join(
                (
                    muted(f"ended {clock(worker.end_time_ms)}: "),
                    worker.exit_type or "",
                    " ",
                    first_line(worker.exit_detail),
                )
            ),
        )
        for worker in workers
    ]
    return tag("ul", *items, class_="plain")


async def _log(look: Look, actor: ActorState, workers: Sequence[WorkerState]) -> Section:
    worker = max(workers, key=lambda w: (w.is_alive, w.start_time_ms or 0), default=None)
    if worker is None:
        return Section("log", "Log", tag("p", "No process of it is remembered.", class_="dim"))
    name = logs.log_name(worker.worker_id)
    title = join(("Log ", link(name, "logs", node=worker.node_id, name=name)))
    parts = []
    for suffix in ("err", "out"):
        name = logs.log_name(worker.worker_id, suffix)
        try:
            text = await logs.read(look.cluster, worker.node_id, name, 200)
        except RpcError as error:
            return Section(
                "log", title, tag("p", f"The node does not answer: {error}", class_="bad")
            )
        if text:
            parts += [muted(name), logs.shown(logs.chosen(text))]
    return Section("log", title, join(parts) or tag("p", "Nothing was written.", class_="dim"))


PAGES = (Page("actors", "Actors", show), Page("actor", "Actor", show_one, "actors", needs_id=True))
