"""Whose results go where, as a picture of bounded size: producers left, those that take them right.

Many tasks of one function at the same depth are one box. A task is as deep as the longest way to
it from one that takes no results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nbray.state.rows import TaskState

from .html import Markup, address, join, tag
from .tree import GAP, HEIGHT, MOST_BOXES, ROW, SINGLE, WIDTH, Box, drawing
from .words import count

_DEEPEST = 60
_MOST_EDGES = 1000


@dataclass
class Flow:
    """What was laid out.

    Attributes:
        boxes: in columns by their depth.
        edges: how many results go from one box to another.
        alone: tasks that neither take nor give results.
        left_out: tasks that are in no box, since there are too many.
        unknown: producers that are not remembered, and what `put` made.
        more: refs of which no row has told.
    """

    boxes: list[Box] = field(default_factory=list)
    edges: Counter[tuple[Box, Box]] = field(default_factory=Counter)
    alone: int = 0
    left_out: int = 0
    unknown: int = 0
    more: int = 0


def near(rows: Sequence[TaskState], task_id: str, steps: int = 6) -> list[TaskState]:
    """What is so many results away from a task at most: before it, and behind it."""
    known = {row.task_id: row for row in rows}
    takers: dict[str, list[str]] = {}
    for row in rows:
        for maker in row.depends_on:
            takers.setdefault(maker, []).append(row.task_id)
    if task_id not in known:
        return []
    found = dict.fromkeys([task_id])
    for ahead in (False, True):
        edge = [task_id]
        for _ in range(steps):
            nexts = (takers.get(one, []) if ahead else known[one].depends_on for one in edge)
            edge = [n for step in nexts for n in step if n in known and n not in found]
            edge = list(dict.fromkeys(edge))
            found.update(dict.fromkeys(edge))
    return [known[one] for one in found]


def lay_out(rows: Sequence[TaskState], chosen: str = "") -> Flow:
    """Boxes and edges of these tasks, the last attempt at each; ``chosen`` has its own box."""
    flow = Flow()
    known = {row.task_id: row for row in rows}
    makers = {row.task_id: [one for one in row.depends_on if one in known] for row in rows}
    given = {one for mine in makers.values() for one in mine}
    flow.unknown = len({one for row in rows for one in row.depends_on if one not in known})
    flow.more = sum(row.depends_on_more for row in rows)
    tied = [row for row in rows if makers[row.task_id] or row.task_id in given]
    if chosen in known and known[chosen] not in tied:
        tied.append(known[chosen])
    flow.alone = len(rows) - len(tied)
    depths = _depths({row.task_id: makers[row.task_id] for row in tied})
    box_of: dict[str, Box] = {}
    for row, box in _boxed(tied, depths, chosen, flow):
        box_of[row.task_id] = box
    for task_id, box in box_of.items():
        for maker in makers[task_id]:
            other = box_of.get(maker)
            if other is not None and other is not box:
                flow.edges[other, box] += 1
    _place(flow)
    return flow


def _depths(makers: dict[str, list[str]]) -> dict[str, int]:
    """How deep each task is. What would be its own producer, if such a thing came, is cut off."""
    depths: dict[str, int] = {}
    waiting = {task_id: len(set(mine)) for task_id, mine in makers.items()}
    takers: dict[str, list[str]] = {}
    for task_id, mine in makers.items():
        for maker in set(mine):
            takers.setdefault(maker, []).append(task_id)
    ready = [task_id for task_id, left in waiting.items() if not left]
    for task_id in ready:
        depth = depths.setdefault(task_id, 0)
        for taker in takers.get(task_id, ()):
            depths[taker] = max(depths.get(taker, 0), min(depth + 1, _DEEPEST))
            waiting[taker] -= 1
            if not waiting[taker]:
                ready.append(taker)
    return {task_id: depths.get(task_id, 0) for task_id in makers}


def _boxed(
    rows: Iterable[TaskState], depths: dict[str, int], chosen: str, flow: Flow
) -> Iterable[tuple[TaskState, Box]]:
    groups: dict[tuple[int, str, bool], list[TaskState]] = {}
    for row in rows:
        groups.setdefault((depths[row.task_id], row.name, row.task_id == chosen), []).append(row)
    single = sum(len(mine) for mine in groups.values() if len(mine) <= SINGLE)
    large = sum(len(mine) > SINGLE for mine in groups.values())
    alone = SINGLE if single + large <= MOST_BOXES else 1
    for (depth, name, is_chosen), mine in sorted(groups.items(), key=lambda pair: pair[0][0]):
        sets = [[row] for row in mine] if len(mine) <= alone else [mine]
        for tasks in sets:
            if len(flow.boxes) >= MOST_BOXES and not is_chosen:
                flow.left_out += len(tasks)
                continue
            if len(tasks) > 1:
                place = address("tasks", {"name": name, "job": tasks[0].job_id})
            else:
                place = address("task", {"id": tasks[0].task_id})
            box = Box(name, tasks, place, chosen=is_chosen, x=depth * (WIDTH + 2 * GAP))
            flow.boxes.append(box)
            for row in tasks:
                yield row, box


def _place(flow: Flow) -> None:
    """Give each box its height: near the middle of those whose results it takes."""
    before: dict[Box, list[Box]] = {}
    for maker, taker in flow.edges:
        before.setdefault(taker, []).append(maker)
    columns: dict[int, list[Box]] = {}
    for box in flow.boxes:
        columns.setdefault(box.x, []).append(box)
    tallest = max((len(column) for column in columns.values()), default=0)
    for x in sorted(columns):
        column = columns[x]
        for box in column:
            mine = before.get(box)
            box.y = sum(maker.y for maker in mine) / len(mine) if mine else 0.0
        column.sort(key=lambda box: box.y)
        wanted = sum(box.y for box in column) / len(column) - ROW * (len(column) - 1) / 2
        if not any(box in before for box in column):
            wanted = ROW * (tallest - len(column)) / 2
        first = min(max(0.0, wanted), ROW * (tallest - len(column)))
        for number, box in enumerate(column):
            box.y = first + ROW * number


def svg(flow: Flow) -> Markup:
    """The picture, and what is not in it."""
    lines = []
    for (maker, taker), results in flow.edges.most_common(_MOST_EDGES):
        x, y = maker.x + WIDTH, maker.y + HEIGHT / 2
        to_x, to_y, bend = taker.x, taker.y + HEIGHT / 2, x + GAP
        path = f"M{x} {y}C{bend} {y} {to_x - GAP} {to_y} {to_x} {to_y}"
        words = f"{count(results, 'result')} of {maker.name} for {taker.name}"
        width = 1.5 if results == 1 else min(5.0, 1.5 + len(str(results)))
        line = tag("title", words)
        lines.append(tag("path", line, d=path, class_="edge", style=f"stroke-width:{width}"))
    notes = []
    if len(flow.edges) > _MOST_EDGES:
        notes.append(f"Of {len(flow.edges):,} lines the {_MOST_EDGES:,} of the most results.")
    if flow.alone:
        notes.append(f"{count(flow.alone, 'task')} neither take nor give results.")
    if flow.left_out:
        notes.append(f"{count(flow.left_out, 'task')} are not drawn.")
    if flow.unknown:
        notes.append(
            f"{count(flow.unknown, 'argument')} came of put, or of tasks that are not remembered."
        )
    if flow.more:
        notes.append(f"{count(flow.more, 'ref')} of tasks with very many are not drawn.")
    picture = drawing(flow.boxes, lines, "Whose results go where") if flow.boxes else Markup("")
    return join((picture, tag("p", " ".join(notes), class_="note")))
