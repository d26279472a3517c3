"""Profile: what a running process does now, as stacks and as a flame graph; what it allocates."""

from __future__ import annotations

from nbray.state.rows import WorkerState

from ..parts.flame import Result, flame, stacks
from ..parts.html import Markup, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section, find
from ..parts.table import Column, Table
from ..parts.words import clock, size_text

_KINDS = {
    "stack": "Stacks, now",
    "flame": "Flame graph, 5 s",
    "memory": "Memory that 5 s allocate",
}

PROCESSES = Table[WorkerState](
    [
        Column(
            "pid",
            "process",
            lambda w: w.pid,
            lambda w: link(f"{w.activity.lower()} pid {w.pid}", "profile", id=w.worker_id),
        ),
        Column("id", "id", lambda w: w.worker_id, lambda w: ref("worker", w.worker_id)),
        Column("is", "is", lambda w: w.activity, choices=True, hidden=True),
        Column(
            "cpu", "CPU", lambda w: w.cpu_percent, lambda w: f"{w.cpu_percent:.0f} %", number=True
        ),
        Column(
            "memory", "memory", lambda w: w.rss_bytes, lambda w: size_text(w.rss_bytes), number=True
        ),
        Column("actor", "actor", lambda w: w.actor_id, lambda w: ref("actor", w.actor_id)),
        Column("node", "node", lambda w: w.node_id, lambda w: ref("node", w.node_id)),
    ],
    "process",
    "the busiest first",
    plural="processes",
)


async def show(look: Look) -> list[Section]:
    """The processes, or one and what was found of it."""
    workers, missing = await look.cluster.workers()
    said = look.get("id")
    if not said:
        rows = [worker for worker in workers if worker.is_alive]
        rows.sort(key=lambda worker: -worker.cpu_percent)
        title = join(("Profile ", muted("choose a process")))
        together = tag("p", "Or ", link("all together, all the time", "flames"), ".")
        return [
            Section("together", "Flames", together),
            look.table("processes", title, PROCESSES, rows, missing),
        ]
    worker = find(
        workers, said, "process", lambda w: w.worker_id, lambda w: (str(w.pid), w.actor_id)
    )
    title = join(("Profile of ", ref("worker", worker.worker_id, f"pid {worker.pid}")))
    result = look.profiles.get(look.get("run"))
    before = [
        link(f"{clock(one.made * 1000)} {_KINDS[one.kind].lower()}", "profile", id=said, run=number)
        for number, one in look.profiles.of(worker.worker_id)
    ]
    known = join(("Made before: ", join(before, ", "))) if before else Markup("")
    all_the_time = tag("p", link("All the time", "flames", id=worker.worker_id))
    sections = [
        Section("choose", title, join((tag("p", known), all_the_time)), _buttons(look, worker))
    ]
    if result is not None and result.worker_id == worker.worker_id:
        run = look.get("run")
        sections.append(Section(f"result-{run}", _title(result), _shown(result)))
    return sections


def _buttons(look: Look, worker: WorkerState) -> Markup:
    if not worker.is_alive:
        return muted("It has ended: there is nothing to look at.")
    if not look.can_act:
        return look.button("profile", "A profile", "")
    return join(
        look.button(
            "profile", text, "It is looked at while it runs.", id=worker.worker_id, kind=kind
        )
        for kind, text in _KINDS.items()
    )


def _title(result: Result) -> Markup:
    words = f", by {result.how}, {clock(result.made * 1000)}" if result.how else ""
    return join((_KINDS[result.kind], muted(words)))


def _shown(result: Result) -> Markup:
    if result.error:
        return tag("p", result.error, class_="bad")
    if not result.counts:
        return tag("p", "Nothing was seen.", class_="dim")
    if result.kind == "stack":
        return stacks(result.counts)
    memory = result.kind == "memory"
    return flame(result.counts, size_text if memory else lambda looks: f"{looks:,} looks")


PAGES = (Page("profile", "Profile", show, period_s=2.0),)
