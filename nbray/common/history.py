"""Figures over time, kept on disk in rings of a fixed size: the last minutes finely, days coarsely.

A `History` has a file of some `Level`s. What is added goes to the first; from the average of what a
level got in the period of the next, that one gets a row. One process writes, by system calls, so
that a full disk is an error and no end of it; any may read, by a `History` that is not
``writable``. Rows are read only if they are whole: a row's time is written last.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_NODES = 64
_MAGIC = b"nbrayts2"
_TIME = struct.Struct("<d")


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
COUNTERS = {
    "received": "net_received", "sent": "net_sent", "read": "disk_read", "written": "disk_written",
}  # fmt: skip
"""Columns that are bytes a second, and the statistics of nodes that grow by them."""
SUMS = {
    "memory_used": "memory_used", "memory_total": "memory_total", "store_used": "store_used",
    "store_total": "store_total", "spilled": "store_spilled", "waiting": "pending_leases",
    "workers": "workers", "disk_used": "disk_used", "disk_total": "disk_total",
    "gpu_memory": "gpu_memory_used", "gpu_memory_total": "gpu_memory_total",
}  # fmt: skip
"""Columns that are summed over nodes, and the statistics that they are made of."""
MEANS = {"cpu": "cpu_percent", "gpu": "gpu_percent"}
"""Columns that are averages over the nodes that tell of them."""
NODE_COLUMNS = (*MEANS, *SUMS, *COUNTERS)
COLUMNS = ("finished", "failed", "nodes", *NODE_COLUMNS)


class History:
    """The series of ``columns`` in the file at ``path``.

    Args:
        path: its file; for who writes, it is made anew if it has other columns.
        columns: their names.
        levels: the rings.
        writable: false for a reader.

    Raises:
        FileNotFoundError: there is nothing to read yet, or of other columns.
        OSError: it cannot be made.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], levels: Sequence[Level], writable: bool = True
    ) -> None:
        self.columns = tuple(columns)
        self._levels = levels
        self._row = struct.Struct(f"<{len(self.columns) + 1}d")
        head = _MAGIC + repr((self.columns, levels)).encode()
        self._start = 4096
        if len(head) > self._start:
            raise ValueError("There are too many columns.")
        size = self._start + self._row.size * sum(level.rows for level in levels)
        if writable:
            self._file = _opened(path, os.O_RDWR, head, size) or _made(path, head, size)
        else:
            self._file = _opened(path, os.O_RDONLY, head, size)
            if not self._file:
                raise FileNotFoundError(path)
        self._bases = []
        base = self._start
        for level in levels:
            self._bases.append(base)
            base += level.rows * self._row.size
        self._sums: list[list[list[float]]] = [[] for _ in levels]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def add(self, when: float, values: Sequence[float]) -> None:
        """A moment; ``when`` in seconds since the epoch, NaN for what is not known.

        Raises:
            OSError: the disk is full.
        """
        self._add(0, when, values)

    def _add(self, number: int, when: float, values: Sequence[float]) -> None:
        level = self._levels[number]
        slot = int(when // level.period_s) % level.rows
        at = self._bases[number] + slot * self._row.size
        os.pwrite(self._file, self._row.pack(0.0, *values), at)
        os.pwrite(self._file, _TIME.pack(when), at)
        if number + 1 == len(self._levels):
            return
        sums = self._sums[number]
        coarser = self._levels[number + 1].period_s
        if sums and sums[0][0] // coarser != when // coarser:
            middle = sums[len(sums) // 2][0]
            row = [_mean(column) for column in zip(*sums, strict=True)][1:]
            sums.clear()
            self._add(number + 1, middle, row)
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
        data = os.pread(self._file, level.rows * self._row.size, base)
        for row in self._row.iter_unpack(data):
            if since < row[0] <= now + 1:
                yield row


def _opened(path: Path, how: int, head: bytes, size: int) -> int:
    """The file if it is there and has that head; else 0."""
    try:
        handle = os.open(path, how | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    if os.pread(handle, len(head), 0) == head and os.fstat(handle).st_size == size:
        return handle
    os.close(handle)
    return 0


def _made(path: Path, head: bytes, size: int) -> int:
    """A new file in the place of any other; who reads that goes on."""
    new = path.with_suffix(".new")
    handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(handle, size)
        os.pwrite(handle, head, 0)
        os.replace(new, path)
    except BaseException:
        os.close(handle)
        raise
    return handle


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
        """That of a node, to be read, or written if it is to be made; None if there is none.

        Raises:
            OSError: it cannot be made.
        """
        known = self._open.get(node_id)
        if known is not None or not node_id.isalnum():
            return known
        if make and len(self._open) >= MOST_NODES:
            return None
        try:
            found = History(self._folder / f"{node_id}.series", self._columns, NODE, make)
        except FileNotFoundError:
            return None
        if len(self._open) >= MOST_NODES:
            self._open.pop(next(iter(self._open))).close()
        self._open[node_id] = found
        return found

    def keep(self, living: set[str]) -> None:
        """When places run out, those of nodes that have gone are given up with their files."""
        if len(self._open) < MOST_NODES:
            return
        for node_id in [known for known in self._open if known not in living]:
            self._open.pop(node_id).close()
            (self._folder / f"{node_id}.series").unlink(missing_ok=True)
