"""Stacks with counts, as text and as a flame graph."""

from __future__ import annotations

import time
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from .html import Markup, join, tag
from .spans import COLOURS
from .words import size_text

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


@dataclass
class Box:
    """A frame with what was called from it."""

    name: str
    count: int = 0
    inside: dict[str, Box] = field(default_factory=dict)


def tree(counts: Mapping[str, int]) -> Box:
    """The stacks joined by their outer frames."""
    root = Box("all")
    for stack, count in counts.items():
        root.count += count
        box = root
        for frame in stack.split(";"):
            box = box.inside.setdefault(frame, Box(frame))
            box.count += count
    return root


def flame(counts: Mapping[str, int], memory: bool) -> Markup:
    """A flame graph: the outermost frames above, as wide as their share."""
    root = tree(counts)
    boxes: list[Markup] = []
    deepest = 0
    left_out = 0
    waiting = [(root, 0.0, 0)]
    while waiting:
        box, left, depth = waiting.pop(0)
        share = box.count / max(1, root.count)
        if share < _LEAST_SHARE or len(boxes) >= _MOST_BOXES:
            left_out += 1
            continue
        deepest = max(deepest, depth)
        amount = size_text(box.count) if memory else f"{box.count:,} looks"
        boxes.append(tag(
            "div", box.name, title=f"{box.name}: {100 * share:.1f} %, {amount}",
            style=f"left:{100 * left:.3f}%;width:{100 * share:.3f}%;top:{_ROW * depth}px;"
            f"background:{_colour(box.name)}",
        ))  # fmt: skip
        at = left
        for child in sorted(box.inside.values(), key=lambda one: -one.count):
            waiting.append((child, at, depth + 1))
            at += child.count / max(1, root.count)
    shown = tag("div", *boxes, class_="flame", style=f"height:{_ROW * (deepest + 1)}px")
    note = f"{left_out:,} frames of less than {_LEAST_SHARE:.1%} are not drawn." if left_out else ""
    how = tag("p", "Click a frame to see it alone, and once more to see all.", class_="note")
    return join((how, shown, tag("p", note, class_="note")))


def _colour(name: str) -> str:
    file = name.partition("(")[2].rpartition(":")[0]
    return COLOURS[zlib.crc32(file.encode("utf-8", "replace")) % len(COLOURS)]


def stacks(counts: Mapping[str, int]) -> Markup:
    """Each thread with its frames, the innermost last as in a traceback."""
    parts = []
    for stack, count in sorted(counts.items(), key=lambda pair: "MainThread" not in pair[0][:40]):
        thread, *frames = stack.split(";")
        head = thread + (f", {count} of them" if count > 1 else "")
        parts.append(tag("h3", head))
        parts.append(tag("pre", "\n".join(f"  {frame}" for frame in frames) or "  (no frames)"))
    return join(parts) or tag("p", "It has no threads.", class_="dim")
