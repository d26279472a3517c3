"""Placement groups, and one: its bundles and where they are, or why it waits."""

from __future__ import annotations

from typing import Any

from nbray.state.rows import PlacementGroupState

from ..parts.html import Markup, code, facts, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section, find
from ..parts.table import Column, Table
from ..parts.words import amounts, count


def _state(group: PlacementGroupState) -> Markup:
    kind = {"CREATED": "good", "REMOVED": "dim"}.get(group.state, "warn")
    why = [tag("div", reason, class_="dim") for reason in group.reasons[:3]]
    return join((tag("span", group.state.lower(), class_=kind), *why))


def _placed(group: PlacementGroupState) -> str:
    bundles = group.bundles or []
    placed = sum(bool(bundle["node_id"]) for bundle in bundles)
    return f"{placed} of {count(len(bundles), 'bundle')}"


GROUPS = Table[PlacementGroupState](
    [
        Column(
            "id",
            "group",
            lambda g: g.placement_group_id,
            lambda g: ref("group", g.placement_group_id),
        ),
        Column("name", "name", lambda g: g.name),
        Column("state", "state", lambda g: g.state, _state, choices=True),
        Column("strategy", "strategy", lambda g: g.strategy, choices=True),
        Column("placed", "placed", _placed),
        Column(
            "wants",
            "wants",
            lambda g: " + ".join(
                amounts(bundle["unit_resources"]) for bundle in (g.bundles or [])[:6]
            ),
        ),
        Column("job", "job", lambda g: g.creator_job_id, lambda g: ref("job", g.creator_job_id)),
    ],
    "placement group",
    "the living first",
)


async def show(look: Look) -> list[Section]:
    """All placement groups."""
    groups = await look.cluster.groups()
    living = sum(group.state != "REMOVED" for group in groups)
    title = join(("Placement groups ", muted(f"{living:,} live")))
    return [look.table("groups", title, GROUPS, groups)]


BUNDLES = Table[dict[str, Any]](
    [
        Column("index", "bundle", lambda b: b["bundle_id"]["bundle_index"], number=True),
        Column("wants", "resources", lambda b: amounts(b["unit_resources"])),
        Column(
            "node",
            "node",
            lambda b: b["node_id"],
            lambda b: ref("node", b["node_id"]) or muted("not placed"),
        ),
    ],
    "bundle",
    prefix="b.",
)


async def show_one(look: Look) -> list[Section]:
    """One placement group."""
    groups = await look.cluster.groups()
    group = find(
        groups,
        look.get("id"),
        "placement group",
        lambda g: g.placement_group_id,
        lambda g: (g.name,),
    )
    stats = group.stats or {}
    title = join(("Placement group ", group.name, " ", code(group.placement_group_id)))
    return [
        Section(
            "group",
            title,
            facts(
                [
                    ("state", _state(group)),
                    ("strategy", group.strategy),
                    ("job", ref("job", group.creator_job_id)),
                    ("detached", "yes" if group.is_detached else "no"),
                    ("attempts at placing", stats.get("scheduling_attempt", "")),
                    ("stage", str(stats.get("scheduling_state", "")).lower()),
                    ("actors in it", link("show", "actors", group=group.placement_group_id)),
                ]
            ),
        ),
        look.table("bundles", "Bundles", BUNDLES, group.bundles or []),
    ]


PAGES = (
    Page("groups", "Groups", show),
    Page("group", "Placement group", show_one, "groups", needs_id=True),
)
