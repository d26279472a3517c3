"""Figures over time, kept on disk in rings of a fixed size: the last minutes finely, days coarsely.

A `History` has a file of some `Level`s. What is added goes to the first; from the average of what a
level got in the period of the next, that one gets a row. Files are mapped, so that an addition
costs no write; a dashboard that is killed finds them again. Rows are read only if they are
whole: a row's time is written last.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_NODES = 64
_MAGIC = b"nbrayts2"


@dataclass(frozen=True)
class Level:
    """So many rows, of ``period_s`` each."""

    period_s: float
    rows: int

    @property
    def span_s(self) -> float:
        """How far back it reaches."""
        return self.period_s * self.rows


CLUSTER = (Level(1, 900), Level(15, 5760), Level(180, 6720))  # 15 minutes, a day, 14 days
NODE = (Level(5, 720), Level(60, 2880))  # an hour, two days


class History:
    """The series of ``columns`` in the file at ``path``, which is made anew if it has others."""

    def __init__(self, path: Path, columns: Sequence[str], levels: Sequence[Level]) -> None:
        self.columns = tuple(columns)
        self._levels = levels
        self._row = struct.Struct(f"<{len(self.columns) + 1}d")
        head = _MAGIC + repr((self.columns, levels)).encode()
        self._start = 4096
        if len(head) > self._start:
            raise ValueError("There are too many columns.")
        size = self._start + self._row.size * sum(level.rows for level in levels)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            known = os.pread(handle, len(head), 0)
            if known != head or os.fstat(handle).st_size != size:
                os.ftruncate(handle, 0)
                os.ftruncate(handle, size)
                os.pwrite(handle, head, 0)
            self._map = mmap.mmap(handle, size)
        finally:
            os.close(handle)
        self._bases = []
        base = self._start
        for level in levels:
            self._bases.append(base)
            base += level.rows * self._row.size
        self._sums: list[list[list[float]]] = [[] for _ in levels]

    def close(self) -> None:
        """Give the mapping back."""
        self._map.close()

    def add(self, when: float, values: Sequence[float]) -> None:
        """A moment; ``when`` in seconds since the epoch, NaN for what is not known."""
        self._add(0, when, values)

    def _add(self, number: int, when: float, values: Sequence[float]) -> None:
        level = self._levels[number]
        slot = int(when // level.period_s) % level.rows
        at = self._bases[number] + slot * self._row.size
        self._row.pack_into(self._map, at, 0.0, *values)
        struct.pack_into("<d", self._map, at, when)
        if number + 1 == len(self._levels):
            return
        sums = self._sums[number]
        coarser = self._levels[number + 1].period_s
        if sums and sums[0][0] // coarser != when // coarser:
            middle = sums[len(sums) // 2][0]
            self._add(number + 1, middle, [_mean(column) for column in zip(*sums, strict=True)][1:])
            sums.clear()
        sums.append([when, *values])

    def rows(self, since: float, now: float, most: int = 1500) -> list[tuple[float, ...]]:
        """Time and values after ``since``, oldest first, of the finest level that reaches there."""
        reach = now - since
        number = next(
            (n for n, level in enumerate(self._levels) if level.span_s >= reach),
            len(self._levels) - 1,
        )
        found = sorted(self._read(number, since, now))
        while not found and number > 0:  # it has not got a row yet
            number -= 1
            found = sorted(self._read(number, since, now))
        step = max(1, math.ceil(len(found) / most))
        return found[::step]

    def _read(self, number: int, since: float, now: float) -> Iterator[tuple[float, ...]]:
        level, base = self._levels[number], self._bases[number]
        since = max(since, now - level.span_s)
        end = base + level.rows * self._row.size
        for row in self._row.iter_unpack(self._map[base:end]):
            if since < row[0] <= now + 1:
                yield row


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


class NodeHistories:
    """A history for each node, in a folder; of too many, the nodes that were there first."""

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self._folder = folder
        self._columns = columns
        self._open: dict[str, History] = {}

    def of(self, node_id: str, make: bool = False) -> History | None:
        """That of a node; None if it has none."""
        known = self._open.get(node_id)
        if known is not None or not make:
            return known
        if len(self._open) >= MOST_NODES:
            return None
        found = self._open[node_id] = History(
            self._folder / f"{node_id}.series", self._columns, NODE
        )
        return found

    def keep(self, living: set[str]) -> None:
        """When places run out, those of nodes that have gone are given up with their files."""
        if len(self._open) < MOST_NODES:
            return
        for node_id in [known for known in self._open if known not in living]:
            self._open.pop(node_id).close()
            (self._folder / f"{node_id}.series").unlink(missing_ok=True)
