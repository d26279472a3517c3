"""Stacks with counts, as text and as a flame graph."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nbray.debugging.flame import colour_of, laid_out

from .html import Markup, join, tag
from .spans import COLOURS

_MOST_KEPT = 20
_MOST_BOXES = 3000
_LEAST_SHARE = 0.002
_ROW = 18


@dataclass(frozen=True)
class Result:
    """A profile that was made.

    Attributes:
        worker_id: of which process.
        kind: stack, flame or memory.
        how: by what it was made.
        counts: of stacks, which are frames joined by ";".
        error: why there is none.
        made: when, in seconds since the epoch.
    """

    worker_id: str
    kind: str
    how: str
    counts: Mapping[str, int]
    error: str = ""
    made: float = field(default_factory=time.time)


class Results:
    """The last profiles, by number."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Result] = OrderedDict()
        self._number = 0

    def add(self, result: Result) -> str:
        """Keep one; its number."""
        self._number += 1
        self._kept[str(self._number)] = result
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return str(self._number)

    def get(self, number: str) -> Result | None:
        """One that is still kept."""
        return self._kept.get(number)

    def of(self, worker_id: str) -> list[tuple[str, Result]]:
        """Those of a process, the newest first."""
        found = [(n, kept) for n, kept in self._kept.items() if kept.worker_id == worker_id]
        return found[::-1]


def flame(counts: Mapping[str, int], words: Callable[[int], str]) -> Markup:
    """A flame graph: the outermost frames above, as wide as their share; ``words`` of a count."""
    laid = laid_out(counts, _LEAST_SHARE, _MOST_BOXES)
    boxes = [
        tag(
            "div", box.name,
            title=f"{box.name}: {100 * box.width:.1f} %, {words(box.count)}",
            style=f"left:{100 * box.left:.3f}%;width:{100 * box.width:.3f}%;"
            f"top:{_ROW * box.depth}px;background:{COLOURS[colour_of(box.name, len(COLOURS))]}",
        )
        for box in laid.boxes
    ]  # fmt: skip
    shown = tag("div", *boxes, class_="flame", style=f"height:{_ROW * laid.rows}px")
    small = f"{laid.left_out:,} frames of less than {_LEAST_SHARE:.1%} are not drawn."
    how = tag("p", "Click a frame to see it alone, and once more to see all.", class_="note")
    return join((how, shown, tag("p", small if laid.left_out else "", class_="note")))


def stacks(counts: Mapping[str, int]) -> Markup:
    """Each thread with its frames, the innermost last as in a traceback."""
    parts = []
    for stack, count in sorted(counts.items(), key=lambda pair: "MainThread" not in pair[0][:40]):
        thread, *frames = stack.split(";")
        head = thread + (f", {count} of them" if count > 1 else "")
        parts.append(tag("h3", head))
        parts.append(tag("pre", "\n".join(f"  {frame}" for frame in frames) or "  (no frames)"))
    return join(parts) or tag("p", "It has no threads.", class_="dim")
