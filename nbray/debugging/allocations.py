"""What Python's allocations were at their highest, by the lines that made them.

`tracemalloc` knows each of them, and asking it for all takes a microsecond and a hundred bytes
apiece. So they are asked for seldom, and of many a part is looked at: allocations are sorted by
size into a few groups, and in each at most `SAMPLE` of them, drawn at random, stand for all. What
a group has together is exact, so the few large ones never stand for the many small ones, nor the
other way round. Where tracing would itself take more than `MOST_OWN` bytes, it ends, and what the
process grows by from then on is added.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise
from operator import itemgetter
from typing import Any

from .stacks import clean

SAMPLE = 20_000
MOST_OWN = 512 << 20
_DEEP = 8
_OVERHEAD = 0.1
_SNAPSHOT_S = 0.5
_GROWN = 1.2
_MOST_PLACES = 1000
_GROUPS = (0, 256, 4096, 65536, sys.maxsize)
_size = itemgetter(1)
_Trace = tuple[int, int, tuple[tuple[str, int], ...]]


class Allocations:
    """Those of this process while they are traced. Not for two threads at once.

    Attributes:
        highest: bytes by stack, when they were most.
        note: what of them is an estimate; empty if they are exact.
    """

    def __init__(self, sample: int = SAMPLE, most_own: int = MOST_OWN) -> None:
        self.highest: dict[str, int] = {}
        self.note = ""
        self._sample = sample
        self._most_own = most_own
        self._active = False
        self._ours = False  # whether it was not the user's code that began to trace
        self._ended = False
        self._high = 0
        self._took = 0.0
        self._next = 0.0
        self._draw = random.Random(0)

    def start(self) -> None:
        """Trace from here on."""
        if self._active:
            return
        self._active, self._ended = True, False
        self.highest, self.note = {}, ""
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
        size, _ = tracemalloc.get_traced_memory()
        if size > self._high * (1.0 if worth_s or full else _GROWN) and (
            full or now >= self._next or self._took <= worth_s
        ):
            began = time.monotonic()
            self._high = size
            self._look(full)
            self._took = time.monotonic() - began
            self._next = now + max(_SNAPSHOT_S, self._took / _OVERHEAD)
        if full:
            self._stop_tracing()
            self._ended = True
            self.note = (
                f"Too many allocations to trace them all: what is more than {size >> 20:,} MB"
                " is what its process grew by."
            )

    def grown(self, stack: str, amount: int) -> None:
        """The process has more memory now; that counts where tracing has ended."""
        if self._active and self._ended:
            self.highest[stack] = self.highest.get(stack, 0) + amount

    def _look(self, full: bool) -> None:
        collects = gc.isenabled()
        gc.disable()  # millions of tuples are made: it would look at all of them again and again
        try:
            traces: list[_Trace] = tracemalloc.take_snapshot().traces._traces  # type: ignore[attr-defined]
            if full:  # what is done with them is not traced, and so ten times as fast
                self._stop_tracing()
            found, drawn = _by_frames(traces, self._sample, self._draw)
            self.note = (
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
) -> tuple[dict[Any, float], int]:
    """Bytes by where they were allocated, and how many allocations were looked at for it."""
    found: dict[Any, float] = {}
    looked = 0
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
    return found, looked


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
