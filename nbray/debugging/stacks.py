"""What the threads of this process do, as stacks with counts.

A stack is its thread (or task) and its frames, outermost first, joined by ";".
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

from nbray.common.extras import how_to_install

LOOKS = "nbray-profile"
"""The name of a thread that looks, which no look shows."""
MOST_STACKS = 5000
DEEPEST = 120
_OVERHEAD = 0.1


def sampled(
    seconds: float, per_s: float, clock: Callable[[], float] = time.monotonic
) -> Counter[str]:
    """How often each stack was seen, outermost frame first, joined by ";"; once without seconds."""
    counts: Counter[str] = Counter()
    until = clock() + seconds
    while True:
        began = clock()
        for stack in now():
            if stack in counts or len(counts) < 4 * MOST_STACKS:
                counts[stack] += 1
        took = clock() - began
        if clock() >= until:
            return counts
        time.sleep(max(1 / per_s, took / _OVERHEAD))


def now() -> list[str]:
    """The stacks of all threads but this one."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    me = threading.get_ident()
    return [
        _stack(names.get(ident) or f"thread {ident}", frame)
        for ident, frame in sys._current_frames().items()
        if ident != me and names.get(ident) != LOOKS
    ]


def _stack(thread: str, frame: FrameType | None) -> str:
    lines: list[str] = []
    while frame is not None and len(lines) < DEEPEST:
        lines.append(line_of(frame))
        frame = frame.f_back
    lines.append(clean(thread))
    return ";".join(reversed(lines))


def line_of(frame: FrameType) -> str:
    """One frame, as stacks have it."""
    code = frame.f_code
    return _line(code.co_qualname, code.co_filename, frame.f_lineno or 0)


def _line(function: str, path: str, number: int) -> str:
    return clean(f"{function} ({path}:{number})")


def clean(text: str) -> str:
    """Text that can stand in a stack."""
    return text.replace(";", ",").encode(errors="replace").decode()


def allocated(seconds: float, _per_s: float) -> Counter[str]:
    """Bytes that were allocated meanwhile and are still there, by stack, as memray knows them.

    Raises:
        ImportError: memray is not installed where this process runs.
    """
    try:
        import memray
    except ImportError as error:
        raise ImportError(
            f"memray is not installed where this process runs: {how_to_install('profile')}"
        ) from error

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "memory")
        with memray.Tracker(path):
            time.sleep(seconds)
        counts: Counter[str] = Counter()
        with memray.FileReader(path) as reader:
            for record in reader.get_leaked_allocation_records(merge_threads=True):
                frames = record.stack_trace(max_stacks=DEEPEST)
                lines = [_line(*frame) for frame in reversed(frames)] or ["(not Python)"]
                counts[";".join(lines)] += record.size
        return counts
