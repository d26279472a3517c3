"""How many tasks of each function this process has submitted, and how many have ended.

Kept by what submitted them (`TaskSpec.origin`) and name, for those who show progress. A task that
is submitted or ends leaves a note; notes are counted in their order, when what others wait for has
been written. What runs is not counted but read from the leases when somebody asks. All of it runs
under the baton.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from nbray.wire.records import TaskSpec

_MAX_ROWS = 1000


class FunctionCounts:
    """The tasks of one function that belong together; times in seconds of `time.monotonic`.

    Attributes:
        unfinished: how many have not ended.
    """

    __slots__ = (
        "began", "cancelled", "done", "ended", "failed", "name", "origin", "running", "submitted",
        "unfinished",
    )  # fmt: skip

    def __init__(self, origin: int, name: str) -> None:
        self.origin = origin
        self.name = name
        self.submitted = self.done = self.failed = self.cancelled = self.running = 0
        self.unfinished = 0
        self.began = self.ended = time.monotonic()

    def copy(self) -> FunctionCounts:
        """The counts as they are now."""
        other = FunctionCounts(self.origin, self.name)
        for slot in self.__slots__:
            setattr(other, slot, getattr(self, slot))
        return other


class TaskCounts:
    """All counts of this process."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, str], FunctionCounts] = {}
        self._notes: deque[tuple[int, str, bool | None, bool]] = deque()

    def submitted(self, origin: int, name: str) -> None:
        """A task was submitted."""
        self._notes.append((origin, name, None, False))

    def ended(self, spec: TaskSpec, failed: bool, cancelled: bool) -> None:
        """A task's result is there, or its error, which says that it was ``cancelled``."""
        self._notes.append((spec.origin, spec.name, failed, cancelled))

    def count(self) -> None:
        """Count what has been noted."""
        notes, rows = self._notes, self._rows
        while notes:
            origin, name, failed, cancelled = notes.popleft()
            key = (origin, name)
            row = rows.get(key)
            if failed is None:
                self._begin(key, row)
            elif row is not None and row.unfinished:
                row.unfinished -= 1
                if cancelled:
                    row.cancelled += 1
                elif failed:
                    row.failed += 1
                else:
                    row.done += 1
                if not row.unfinished:
                    row.ended = time.monotonic()

    def _begin(self, key: tuple[int, str], row: FunctionCounts | None) -> None:
        if row is None:
            row = self._rows[key] = FunctionCounts(*key)
            if len(self._rows) > _MAX_ROWS:
                self._forget_one()
        elif not row.unfinished:
            # A new burst: time and rate are its own.
            row.began = time.monotonic()
            row.submitted = row.done = row.failed = row.cancelled = 0
        row.submitted += 1
        row.unfinished += 1

    def snapshot(self, running: Iterable[TaskSpec]) -> list[FunctionCounts]:
        """A copy of the counts; ``running`` are the tasks that run now."""
        self.count()
        for row in self._rows.values():
            row.running = 0
        for spec in running:
            counts = self._rows.get((spec.origin, spec.name))
            if counts is not None:
                counts.running += 1
        return [row.copy() for row in self._rows.values()]

    def unfinished(self) -> dict[str, int]:
        """How many tasks of each function have not ended."""
        self.count()
        names: dict[str, int] = {}
        for row in self._rows.values():
            if row.unfinished:
                names[row.name] = names.get(row.name, 0) + row.unfinished
        return names

    def _forget_one(self) -> None:
        for key, row in self._rows.items():
            if not row.unfinished:
                del self._rows[key]
                return
        del self._rows[next(iter(self._rows))]
