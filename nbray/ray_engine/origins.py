"""To which cell a task belongs. Pure: no clock, no thread, no Ray.

Three carriers, in this order: the kernel's own table of what it has submitted; a worker's word
whose child a task is, up to a task of that table; and Ray's table of tasks, which has the parent
of each and when it was submitted, so that a call that went through nothing of ours belongs to the
cell that
ran then. A task of which nobody has said anything yet is *unknown* for a moment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

_MOST = 50_000
_DEEPEST = 1000
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Seen:
    """A task as Ray's table has it: its parent, and when it was submitted, in ms of the epoch."""

    parent: str
    submitted: float


class Origins:
    """Of the tasks of one notebook."""

    def __init__(self, known: Callable[[str], int | None]) -> None:
        """``known`` has the cells of the tasks that the kernel has submitted itself."""
        self._known = known
        self._root = ""
        self._parents: OrderedDict[str, str] = OrderedDict()
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._cells: list[tuple[float, int]] = []

    def joined(self, root: str) -> None:
        """The kernel is in a cluster, where ``root`` is the task that stands for it."""
        self._root = root
        self._parents.clear()
        self._seen.clear()

    def cell_began(self, number: int, at: float) -> None:
        """A cell began; ``at`` in ms of the epoch."""
        self._cells.append((at, number))
        del self._cells[:-1000]

    def born(self, children: Mapping[str, str]) -> None:
        """Workers have said whose children these tasks are."""
        _keep(self._parents, children)

    def seen(self, rows: Mapping[str, Seen]) -> None:
        """Ray's table has these."""
        _keep(self._seen, rows)

    def find(self, task: str) -> tuple[int | None, str]:
        """The cell of a task, 0 for none; or None, and the task that has to be asked for."""
        for _ in range(_DEEPEST):
            cell = self._known(task)
            if cell is not None:
                return cell, ""
            parent = self._parents.get(task)
            if parent is None:
                row = self._seen.get(task)
                if row is None:
                    return None, task
                if row.parent in ("", self._root):
                    return self._at(row.submitted), ""
                parent = row.parent
            task = parent
        return 0, ""

    def _at(self, submitted: float) -> int:
        """The cell that ran then: the last that had begun."""
        found = 0
        for began, number in self._cells:
            if began > submitted:
                break
            found = number
        return found


def _keep(table: OrderedDict[str, _Value], more: Mapping[str, _Value]) -> None:
    table.update(more)
    while len(table) > _MOST:
        table.popitem(last=False)
