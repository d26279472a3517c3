"""Who submitted whom, as a tree of bounded size: many tasks of one function are one box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nbray.state.rows import TaskState

from .html import DOTS, Markup, address, escape, join, tag
from .words import count

MOST_BOXES = 150
SINGLE = 6  # so many of one function below one box are drawn one by one
_DEEPEST = 20
WIDTH, HEIGHT, GAP, ROW = 190, 36, 46, 44
_LONGEST = 26
_KINDS = ("failed", "running", "waiting", "done")


@dataclass(eq=False)
class Box:
    """One task, or several of one function.

    Attributes:
        name: the function.
        tasks: the attempts that count.
        place: where its link leads.
        inside: boxes of what these have submitted.
        chosen: whether the page is about it.
    """

    name: str
    tasks: Sequence[TaskState]
    place: str
    inside: list[Box] = field(default_factory=list)
    chosen: bool = False
    x: int = 0
    y: float = 0.0


@dataclass
class Drawn:
    """A tree that was laid out; ``left_out`` tasks are in no box."""

    root: Box
    boxes: int
    left_out: int


def kind_of(row: TaskState) -> str:
    """What colour a task has."""
    if row.state == "FAILED":
        return "failed" if row.error_type != "TASK_CANCELLED" else "done"
    return {"RUNNING": "running", "FINISHED": "done"}.get(row.state, "waiting")


def newest(rows: Iterable[TaskState]) -> list[TaskState]:
    """The last attempt at each task."""
    found: dict[str, TaskState] = {}
    for row in rows:
        known = found.get(row.task_id)
        if known is None or row.attempt_number >= known.attempt_number:
            found[row.task_id] = row
    return list(found.values())


def grow(root: Box, rows: Sequence[TaskState], tops: Sequence[TaskState]) -> Drawn:
    """The tree below ``root``: ``tops`` first, then what they have submitted of ``rows``."""
    children: dict[str, list[TaskState]] = {}
    for row in rows:
        children.setdefault(row.parent_task_id or "", []).append(row)
    boxes, left_out = 1, 0
    waiting: list[tuple[Box, Sequence[TaskState], int]] = [(root, tops, 1)]
    for box, mine, depth in waiting:
        for made in _grouped(mine):
            if boxes >= MOST_BOXES or depth > _DEEPEST:
                left_out += len(made.tasks)
                continue
            boxes += 1
            box.inside.append(made)
            below = [child for task in made.tasks for child in children.pop(task.task_id, ())]
            if below:
                waiting.append((made, below, depth + 1))
    return Drawn(root, boxes, left_out)


def _grouped(rows: Sequence[TaskState]) -> list[Box]:
    names: dict[str, list[TaskState]] = {}
    for row in rows:
        names.setdefault(row.name, []).append(row)
    found = []
    for name, mine in names.items():
        if len(mine) <= SINGLE:
            found += [Box(name, [row], address("graph", {"id": row.task_id})) for row in mine]
        else:
            query = {"name": name, "job": mine[0].job_id}
            found.append(Box(name, mine, address("tasks", query)))
    return found


def _lay_out(root: Box) -> list[Box]:
    """Give every box its place, from left to right; in an order in which parents come first."""
    ordered: list[Box] = []
    stack = [root]
    while stack:
        box = stack.pop()
        ordered.append(box)
        for child in reversed(box.inside):
            child.x = box.x + WIDTH + GAP
            stack.append(child)
    row = 0
    for box in ordered:
        if not box.inside:
            box.y = float(row * ROW)
            row += 1
    for box in reversed(ordered):
        if box.inside:
            box.y = (box.inside[0].y + box.inside[-1].y) / 2
    return ordered


def words(box: Box) -> str:
    """What is known of its tasks."""
    kinds = [kind_of(row) for row in box.tasks]
    return ", ".join(
        f"{kinds.count(kind):,} {kind}" if len(kinds) > 1 else kind
        for kind in _KINDS
        if kind in kinds
    )


def svg(drawn: Drawn) -> Markup:
    """The picture."""
    boxes = _lay_out(drawn.root)
    lines = []
    for box in boxes:
        for child in box.inside:
            x, y = box.x + WIDTH, box.y + HEIGHT / 2
            to_x, to_y, bend = child.x, child.y + HEIGHT / 2, x + GAP / 2
            path = f"M{x} {y}C{bend} {y} {bend} {to_y} {to_x} {to_y}"
            lines.append(tag("path", d=path, class_="edge"))
    more = f"{count(drawn.left_out, 'task')} are not drawn." if drawn.left_out else ""
    picture = drawing(boxes, lines, "Who submitted whom")
    return join((picture, tag("p", more, class_="note")))


def drawing(boxes: Sequence[Box], lines: Iterable[Markup], label: str) -> Markup:
    """Boxes at their places, above lines."""
    width = max(box.x for box in boxes) + WIDTH + 2
    height = max(box.y for box in boxes) + HEIGHT + 2
    picture = tag(
        "svg", *lines, *map(_shape, boxes), viewBox=f"-1 -1 {width} {height:.0f}", width=width,
        height=f"{height:.0f}", class_="graph", role="img", aria_label=label,
    )  # fmt: skip
    return tag("div", picture, class_="scroll")


def _shape(box: Box) -> Markup:
    kinds = {kind_of(row) for row in box.tasks}
    kind = next((kind for kind in _KINDS if kind in kinds), "top")
    many = f" x {len(box.tasks):,}" if len(box.tasks) > 1 else ""
    most = _LONGEST - len(many)
    name = box.name if len(box.name) <= most else box.name[: most - 1] + DOTS
    return tag(
        "a",
        tag("title", f"{box.name}{many}: {words(box)}"),
        tag("rect", x=box.x, y=f"{box.y:.0f}", width=WIDTH, height=HEIGHT, rx=5,
            class_=f"box {'chosen' if box.chosen else ''}"),
        tag("rect", x=box.x, y=f"{box.y:.0f}", width=5, height=HEIGHT, rx=2, class_=kind),
        tag("svg", tag("text", join((escape(name), many)), y=15),
            tag("text", words(box), y=29, class_="dim"),
            x=box.x + 12, y=f"{box.y:.0f}", width=WIDTH - 15, height=HEIGHT),
        href=box.place,
    )  # fmt: skip
