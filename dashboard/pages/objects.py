"""Objects: who holds what, and where it was made; what fills the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from nbray.state.rows import NodeState, ObjectList, ObjectState

from ..parts.cluster import OBJECT_LIMIT
from ..parts.holders import HOLDERS, owners
from ..parts.html import Markup, bytes_bar, code, join, muted, numbered, ref, tag
from ..parts.page import Look, Page, Section
from ..parts.table import Column, Table
from ..parts.words import count, size_text

_KINDS = {
    "LOCAL_REFERENCE": "a ref in the process",
    "USED_BY_PENDING_TASK": "a task that has not ended",
    "CAPTURED_IN_OBJECT": "a ref inside another value",
    "PINNED_IN_MEMORY": "another process",
    "ACTOR_HANDLE": "a handle of an actor",
}


@dataclass(frozen=True)
class Site:
    """The objects that one line or task made."""

    place: str
    objects: int
    bytes: int
    processes: int
    kept_by: str


SITES = Table[Site](
    [
        Column("site", "made at", lambda s: s.place, lambda s: code(s.place or "not recorded")),
        Column("objects", "objects", lambda s: s.objects, number=True),
        Column("bytes", "bytes", lambda s: s.bytes, lambda s: size_text(s.bytes), number=True),
        Column("processes", "processes", lambda s: s.processes, number=True),
        Column("kept", "mostly kept by", lambda s: s.kept_by),
    ],
    "place",
    "the largest first",
    "s.",
)

OBJECTS = Table[ObjectState](
    [
        Column(
            "id",
            "object",
            lambda o: o.object_id,
            lambda o: tag("code", numbered(o.object_id), title=o.object_id),
        ),
        Column("what", "what", lambda o: o.kind),
        Column(
            "bytes",
            "bytes",
            lambda o: o.object_size if o.object_size >= 0 else None,
            lambda o: size_text(o.object_size) if o.object_size >= 0 else "",
            number=True,
        ),
        Column(
            "kept",
            "kept by",
            lambda o: o.reference_type,
            lambda o: tag("span", _KINDS.get(o.reference_type, o.reference_type), class_="whole"),
            choices=True,
        ),
        Column("status", "task", lambda o: o.task_status, lambda o: o.task_status.lower()),
        Column("refs", "refs", lambda o: o.local_ref_count, number=True),
        Column("borrowers", "borrowers", lambda o: o.borrowers, number=True),
        Column(
            "where",
            "in the store of",
            lambda o: " ".join(o.node_ids),
            lambda o: join([ref("node", node) for node in o.node_ids], " "),
        ),
        Column(
            "worker",
            "process",
            lambda o: o.worker_id,
            lambda o: ref("worker", o.worker_id, f"pid {o.pid}"),
        ),
        Column("site", "made at", lambda o: o.call_site, lambda o: code(o.call_site)),
    ],
    "object",
    "the largest first",
)


def sites(rows: Sequence[ObjectState]) -> list[Site]:
    """The objects that are owned, by where they were made."""
    places: dict[str, list[ObjectState]] = {}
    for row in rows:
        if row.is_owner:
            places.setdefault(row.call_site, []).append(row)
    found = []
    for place, mine in places.items():
        kinds = [row.reference_type for row in mine]
        most = max(set(kinds), key=kinds.count)
        size = sum(max(0, row.object_size) for row in mine)
        found.append(
            Site(
                place, len(mine), size, len({row.worker_id for row in mine}), _KINDS.get(most, most)
            )
        )
    return sorted(found, key=lambda site: -site.bytes)


async def show(look: Look) -> list[Section]:
    """All of it."""
    objects, nodes = await asyncio.gather(look.cluster.objects(), look.cluster.nodes())
    holders, idle = owners(objects.holders)
    owned = sum(holder.owned for holder in holders)
    missing = left_out(objects)
    title = join(("Objects ", muted(f"{owned:,} in all")))
    return [
        Section("stores", "Object stores", stores(nodes)),
        look.table("sites", "By where they were made", SITES, sites(objects.rows), missing),
        look.table("holders", "By holder", HOLDERS, holders, [*objects.missing, *idle]),
        look.table("objects", title, OBJECTS, objects.rows, missing),
    ]


def left_out(objects: ObjectList) -> list[str]:
    """Sentences on what the rows lack."""
    notes = [f"Missing: {text}." for text in objects.missing]
    owned = sum(holder.owned for holder in objects.holders)
    listed = sum(row.is_owner for row in objects.rows)
    if owned > listed:
        notes.append(
            f"{listed:,} of {count(owned, 'object')} are listed: the {OBJECT_LIMIT:,} largest of "
            "each process. The counts by holder are exact."
        )
    if any(not row.call_site for row in objects.rows):
        notes.append(
            "Where small values were made is known with NBRAY_RECORD_REF_CREATION_SITES=1."
        )
    return notes


def stores(nodes: Sequence[NodeState]) -> Markup:
    """How full each store is."""
    rows = []
    for node in nodes:
        if node.state != "ALIVE":
            continue
        stats = node.stats
        spilled = stats.get("store_spilled", 0.0)
        rows.append(
            (
                stats.get("store_used", 0.0),
                tag(
                    "tr",
                    tag("td", ref("node", node.node_id)),
                    tag("td", node.hostname),
                    tag(
                        "td", bytes_bar(stats.get("store_used", 0.0), stats.get("store_total", 0.0))
                    ),
                    tag("td", f"{stats.get('objects', 0):,.0f}", class_="number"),
                    tag("td", size_text(spilled) if spilled else "", class_="number"),
                ),
            )
        )
    rows.sort(key=lambda row: -row[0])
    head = tag(
        "tr",
        tag("th", "node"),
        tag("th", "host"),
        tag("th", "in use"),
        tag("th", "values", class_="number"),
        tag("th", "spilled", class_="number"),
    )
    shown = [row for _used, row in rows[:20]]
    more = (
        tag("p", f"The fullest 20 of {len(rows)} are shown.", class_="note")
        if len(rows) > 20
        else ""
    )
    return join(
        (tag("div", tag("table", tag("thead", head), tag("tbody", *shown)), class_="scroll"), more)
    )


PAGES = (Page("objects", "Objects", show, period_s=2.0),)
