"""What Python's allocations were at their highest, by the lines that made them.

`tracemalloc` knows each of them, and asking it for all takes a microsecond and a hundred bytes
apiece. So they are asked for seldom, and of many a part is looked at: allocations are sorted by
size into a few groups, and in each at most `SAMPLE` of them, drawn at random, stand for all. What
a group has together is exact, so the few large ones never stand for the many small ones, nor the
other way round. Tracing itself makes small objects many times slower, and takes their memory once
more: where it has come to `MOST_OWN` bytes, which is about a million allocations, it ends, and what
the process grows by from then on is added, by the lines that were seen then.
"""

from __future__ import annotations

import gc
import os
import random
import re
import sys
import time
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise
from operator import itemgetter
from typing import Any

from .stacks import clean

SAMPLE = 20_000
MOST_OWN = 48 << 20
_DEEP = 8
_OVERHEAD = 0.2
_SNAPSHOT_S = 0.5
_GROWN = 1.2
_MOST_PLACES = 1000
_GROUPS = (0, 513, 8192, 131072, sys.maxsize)
"""The first has what the interpreter takes from its own pools."""
_PLACE = re.compile(r"^.* \((.*:\d+)\)$")
_size = itemgetter(1)
_Trace = tuple[int, int, tuple[tuple[str, int], ...]]


class Allocations:
    """Those of this process while they are traced. Not for two threads at once.

    Attributes:
        highest: bytes by stack, when they were most.
    """

    def __init__(self, sample: int = SAMPLE, most_own: int = MOST_OWN) -> None:
        self.highest: dict[str, int] = {}
        self._drawn = self._more = ""
        self._sample = sample
        self._most_own = most_own
        self._active = False
        self._ours = False  # whether it was not the user's code that began to trace
        self._ended = False
        self._high = 0
        self._rss = self._blocks = self._grew = 0
        self._mean = 0.0
        self._took = 0.0
        self._next = 0.0
        self._draw = random.Random(0)

    @property
    def note(self) -> str:
        """What of them is an estimate; empty if they are exact."""
        return f"{self._drawn} {self._more}".strip()

    def start(self) -> None:
        """Trace from here on."""
        if self._active:
            return
        self._active, self._ended = True, False
        self.highest, self._drawn, self._more = {}, "", ""
        self._high, self._took, self._next = 0, 0.0, 0.0
        if not tracemalloc.is_tracing():
            tracemalloc.start(_DEEP)
            self._ours = True

    def stop(self) -> None:
        """Trace no more, unless the user's own code began it."""
        self._active = False
        self._stop_tracing()

    def _stop_tracing(self) -> None:
        if self._ours:
            self._ours = False
            tracemalloc.stop()

    def measure(self, now: float, worth_s: float = 0.0) -> None:
        """Look at them if they are at their highest, and it does not take too much of the time.

        Args:
            now: of the monotonic clock.
            worth_s: it may take so long in any case.
        """
        if not self._active or self._ended or not tracemalloc.is_tracing():
            return
        full = self._ours and tracemalloc.get_tracemalloc_memory() > self._most_own
        size, peak = tracemalloc.get_traced_memory()
        if size > self._high * (1.0 if worth_s or full else _GROWN) and (
            full or now >= self._next or self._took <= worth_s
        ):
            began = time.thread_time()
            self._high = size
            self._look(full)
            self._took = time.thread_time() - began
            self._next = now + max(_SNAPSHOT_S, self._took / _OVERHEAD)
        if peak > _GROWN * self._high:
            self._more = (
                f"At the highest it was {peak / 1e6:,.1f} MB, of which no look came in time."
            )
        else:
            self._more = ""
        if full:
            self._stop_tracing()
            self._ended = True
            self._rss = self._grew = 0
            self._blocks = sys.getallocatedblocks()
            self._more = (
                f"Tracing ended there, at {size / 1e6:,.1f} MB: what was more is what the process"
                " grew by, at the lines that ran."
            )

    def grown(self, stack: str, rss: int) -> None:
        """The process has so much memory now, while ``stack`` ran, as `sampling` writes it.

        What tracing has given back is filled before a process grows, so its small objects are
        counted, too: they are taken to be as large as those that were traced.
        """
        if not self._active or not self._ended:
            return
        self._rss = self._rss or rss
        objects = round((sys.getallocatedblocks() - self._blocks) * self._mean)
        more = max(rss - self._rss, objects) - self._grew
        if more > 0:
            self._grew += more
            lines = ";".join(_PLACE.sub(r"\1 (\1)", line) for line in stack.split(";")[1:])
            self.highest[lines or stack] = self.highest.get(lines or stack, 0) + more

    def _look(self, full: bool) -> None:
        collects = gc.isenabled()
        gc.disable()  # millions of tuples are made: it would look at all of them again and again
        try:
            traces: list[_Trace] = tracemalloc.take_snapshot().traces._traces  # type: ignore[attr-defined]
            if full:  # what is done with them is not traced, and so ten times as fast
                self._stop_tracing()
            found, drawn, self._mean = _by_frames(traces, self._sample, self._draw)
            self._drawn = (
                f"Of {len(traces):,} allocations, {drawn:,} drawn at random, by size,"
                " stand for all."
                if drawn < len(traces)
                else ""
            )
            del traces
        finally:
            if collects:
                gc.enable()
        most = sorted(found.items(), key=lambda pair: -pair[1])[:_MOST_PLACES]
        self.highest, ours = {}, _our_folders()
        for frames, amount in most:
            stack = _stack(frames, ours)
            self.highest[stack] = self.highest.get(stack, 0) + round(amount)


def _by_frames(
    traces: list[_Trace], sample: int, draw: random.Random
) -> tuple[dict[Any, float], int, float]:
    """Bytes by where they were allocated, how many were looked at for it, a small one's size."""
    found: dict[Any, float] = {}
    looked, mean = 0, 0.0
    # No loop here may make a number for each allocation: it would be traced, too.
    for least, most in pairwise(_GROUPS):
        group = [trace for trace in traces if least <= trace[1] < most]
        picked: Iterable[_Trace] = group
        worth = 1.0
        if len(group) > sample:
            picked = draw.sample(group, sample)
            worth = sum(map(_size, group)) / sum(map(_size, picked))
        for _domain, amount, frames, *_ in picked:
            found[frames] = found.get(frames, 0) + amount * worth
        looked += min(len(group), sample)
        if not least:
            mean = sum(map(_size, group)) / max(1, len(group))
    return found, looked, mean


def _stack(frames: tuple[tuple[str, int], ...], ours: tuple[str, ...]) -> str:
    lines = [
        clean(f"{file}:{line} ({file}:{line})")
        for file, line in reversed(frames)
        if not file.startswith(ours)
    ]
    if not lines or frames[0][0].startswith(ours):
        lines.append("(nbray's own)")
    return ";".join(lines)


def _our_folders() -> tuple[str, ...]:
    """Where the code lies whose allocations are no line of the user's."""
    loaded = (sys.modules.get(name) for name in ("nbray", "nbray.jupyter_ext"))
    folders = [os.path.dirname(str(one.__file__)) + os.sep for one in loaded if one is not None]
    return (*folders, tracemalloc.__file__)
