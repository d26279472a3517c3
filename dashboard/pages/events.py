"""Events: what ended unasked, what began, and what waits now."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..parts.html import Markup, ref, tag
from ..parts.page import Look, Page, Section
from ..parts.table import Column, Table
from ..parts.words import amounts, clock, count, duration, first_line


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    time_ms: float
    severity: str
    kind: str
    id: str
    name: str
    message: str
    node_id: str | None


_PAGES = {"worker": "worker", "actor": "actor", "node": "node", "job": "job"}


def _of(event: Event) -> Markup:
    page = _PAGES.get(event.kind)
    return ref(page, event.id, event.name) if page and event.id else tag("span", event.name)


EVENTS = Table[Event](
    [
        Column("time", "when", lambda e: e.time_ms, lambda e: clock(e.time_ms)),
        Column(
            "severity",
            "severity",
            lambda e: e.severity,
            lambda e: tag(
                "span", e.severity.lower(), class_="bad" if e.severity == "ERROR" else None
            ),
            choices=True,
        ),
        Column("kind", "kind", lambda e: e.kind, choices=True),
        Column("what", "what", lambda e: f"{e.name} {e.id}", _of),
        Column("message", "message", lambda e: e.message, lambda e: _message(e.message)),
        Column("node", "node", lambda e: e.node_id, lambda e: ref("node", e.node_id)),
    ],
    "event",
    "the newest first",
)


def _message(text: str) -> Markup:
    head = first_line(text)
    if head == text.strip():
        return tag("span", head)
    return tag("details", tag("summary", head), tag("pre", text))


async def show(look: Look) -> list[Section]:
    """All events."""
    nodes, jobs, failures, demand, actors = await asyncio.gather(
        look.cluster.nodes(),
        look.jobs(),
        look.cluster.failures(),
        look.cluster.demand(),
        look.cluster.actors(),
    )
    events = [
        Event(f.time_ms, "ERROR", f.kind, f.id, f.name or f.kind, f.cause, f.node_id)
        for f in failures
    ]
    dead = {f.id for f in failures}
    for node in nodes:
        events.append(
            Event(
                node.start_time_ms or 0,
                "INFO",
                "node",
                node.node_id,
                node.hostname,
                "it joined",
                node.node_id,
            )
        )
        if node.end_time_ms and node.node_id not in dead:
            events.append(
                Event(
                    node.end_time_ms,
                    "INFO",
                    "node",
                    node.node_id,
                    node.hostname,
                    node.state_message or "it left",
                    node.node_id,
                )
            )
    for job in jobs:
        name = job.submission_id or job.job_id or ""
        if job.start_time:
            events.append(
                Event(
                    job.start_time,
                    "INFO",
                    "job",
                    name,
                    name,
                    f"it began: {job.entrypoint}",
                    job.driver_node_id,
                )
            )
        if job.end_time:
            severity = "ERROR" if job.status == "FAILED" else "INFO"
            text = job.message or f"it ended: {job.status.lower()}"
            events.append(
                Event(job.end_time, severity, "job", name, name, text, job.driver_node_id)
            )
    for actor in actors:
        if actor.start_time_ms and actor.num_restarts:
            events.append(
                Event(
                    actor.start_time_ms,
                    "WARNING",
                    "actor",
                    actor.actor_id,
                    actor.class_name,
                    f"restarted {actor.num_restarts} times",
                    actor.node_id,
                )
            )
    events.sort(key=lambda event: -event.time_ms)
    rows = [
        tag(
            "li",
            tag("b", count(row.count, row.kind)),
            f" with {amounts(row.resources)}, ",
            duration(row.waiting_s // 1 or 1),
            ": ",
            tag("span", row.reason or " ".join(row.lacking), class_="bad" if row.reason else None),
        )
        for row in demand[:200]
    ]
    note = "The cluster remembers the last of each kind; failed tasks are on the page of tasks."
    waits = tag("ul", *rows, class_="plain") if rows else tag("p", "Nothing.", class_="dim")
    return [
        look.table("events", "Events", EVENTS, events, [note]),
        Section("waiting", f"What waits now ({len(demand):,})", waits),
    ]


PAGES = (Page("events", "Events", show),)
