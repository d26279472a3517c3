"""The task stream of the last minutes, live; and a Chrome trace to take along."""

from __future__ import annotations

import time

from ..parts.html import Markup, join, muted, tag
from ..parts.page import Look, Page, Section
from ..parts.spans import BAD, DIM

_SPANS = ("1m", "5m", "15m")
_MOST_NAMES = 40
_REACH = {"1m": 60, "5m": 300, "15m": 900}


async def show(look: Look) -> list[Section]:
    """The stream, how far back, and its functions."""
    await look.spans.look()
    reach = look.get("span") if look.get("span") in _SPANS else "1m"
    query = {"span": reach}
    if look.get("node"):
        query["node"] = look.get("node")
    chips = [
        tag(
            "a",
            f"last {span}",
            href=f"timeline?span={span}",
            class_="chip on" if span == reach else "chip",
        )
        for span in _SPANS
    ]
    trace = tag("a", "Chrome trace", href="trace.json", download="nbray-trace.json", class_="chip")
    words = muted("Drag to zoom, click a task for its page. The trace opens in ui.perfetto.dev.")
    return [
        Section(
            f"stream-{reach}",
            "Task stream",
            _functions(look, reach),
            join((tag("span", *chips, class_="chips"), trace, words)),
            plot="task-stream",
            plot_query=query,
        )
    ]


def _functions(look: Look, reach: str) -> Markup:
    start = time.time() * 1000 - 1000 * _REACH[reach]
    names: dict[str, int] = {}
    for span in look.spans.since(start):
        names[span.name] = names.get(span.name, 0) + 1
    if not names:
        return tag("p", "No task has run.", class_="dim")
    most = sorted(names.items(), key=lambda pair: -pair[1])
    parts = [
        tag(
            "span",
            tag("i", style=f"background:{look.spans.colour(name)}"),
            tag("a", name, href=f"tasks?name={name}"),
            muted(f" {number:,}"),
        )
        for name, number in most[:_MOST_NAMES]
    ]
    parts += [
        tag("span", tag("i", style=f"background:{BAD}"), "failed"),
        tag("span", tag("i", style=f"background:{DIM}"), "cancelled"),
    ]
    if len(most) > _MOST_NAMES:
        parts.append(muted(f"and {len(most) - _MOST_NAMES} more"))
    note = tag(
        "p",
        "Of many short tasks, a sample is drawn; the counts are of what is drawn.",
        class_="note",
    )
    return join((tag("div", *parts, class_="legend"), note))


PAGES = (Page("timeline", "Timeline", show),)
