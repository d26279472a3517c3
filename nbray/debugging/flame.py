"""Stacks with counts, laid out as a flame graph: outer frames above, as wide as their share."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Box:
    """A frame with what was called from it."""

    name: str
    count: int = 0
    inside: dict[str, Box] = field(default_factory=dict)

    @property
    def own(self) -> int:
        """What it has beside what was called from it."""
        return self.count - sum(box.count for box in self.inside.values())


@dataclass(frozen=True)
class Placed:
    """A frame in the picture: ``left`` and ``width`` are parts of the whole."""

    name: str
    count: int
    left: float
    width: float
    depth: int


@dataclass(frozen=True)
class Laid:
    """The picture; ``left_out`` boxes are too small, or too many."""

    boxes: list[Placed]
    rows: int
    left_out: int


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


def laid_out(counts: Mapping[str, int], least: float, most: int) -> Laid:
    """Where each box stands.

    Args:
        counts: of stacks, which are frames joined by ";".
        least: the part of the whole that a box needs to be drawn.
        most: so many boxes are drawn.
    """
    root = tree(counts)
    whole = max(1, root.count)
    boxes: list[Placed] = []
    left_out = 0
    waiting = deque([(root, 0.0, 0)])
    while waiting:
        box, left, depth = waiting.popleft()
        share = box.count / whole
        if share < least or len(boxes) >= most:
            left_out += 1
            continue
        boxes.append(Placed(box.name, box.count, left, share, depth))
        for child in sorted(box.inside.values(), key=lambda one: -one.count):
            waiting.append((child, left, depth + 1))
            left += child.count / whole
    return Laid(boxes, 1 + max((box.depth for box in boxes), default=0), left_out)


def own_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """What each frame has beside what it calls, wherever it stands."""
    found: dict[str, int] = {}
    for stack, count in counts.items():
        name = stack.rpartition(";")[2]
        found[name] = found.get(name, 0) + count
    return found


def colour_of(name: str, colours: int) -> int:
    """The number of a frame's colour: frames of one file have the same."""
    file = name.partition("(")[2].rpartition(":")[0]
    return zlib.crc32(file.encode("utf-8", "replace")) % colours
