"""Where the user's code is at work in this process, over some seconds and at a small cost.

Frames of nbray are left out, and threads that only wait for work. Times, not looks, are added up: a
look that comes late, since code held the GIL, counts for all the time since the one before.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

from .marks import IDLE
from .sampling import stack_of
from .stacks import LOOKS, MOST_STACKS

_OVERHEAD = 0.02
_WAITING = ("threading", "concurrent", "asyncio", "selectors", "queue", "socketserver")


def working(
    seconds: float, per_s: float, clock: Callable[[], float] = time.monotonic
) -> Counter[str]:
    """Milliseconds by stack, outermost frame first, joined by ";"."""
    counts: Counter[str] = Counter()
    last = began = clock()
    while True:
        looked = clock()
        for stack in _now():
            if stack in counts or len(counts) < 4 * MOST_STACKS:
                counts[stack] += max(1, round(1000 * (looked - last)))
        last = looked
        took = clock() - looked
        if looked >= began + seconds:
            return counts
        time.sleep(min(seconds, max(1 / per_s, took / _OVERHEAD)))


def _now() -> list[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    me, main = threading.get_ident(), threading.main_thread().ident
    found = []
    for ident, frame in sys._current_frames().items():
        name = names.get(ident) or f"thread {ident}"
        if ident == me or name == LOOKS or name.startswith("nbray-"):
            continue
        root, *frames = stack_of(name, frame).split(";")
        if not frames or frames == ["(in nbray)"]:
            if ident == main:
                found.append(IDLE)
        elif ident == main:
            found.append(";".join(frames))
        elif not _only_waits(frame):
            found.append(";".join([root, *frames]))
    return found


def _only_waits(frame: FrameType | None) -> bool:
    """Whether a thread is in the standard library only, as one of a pool that has nothing to do."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _WAITING and not module.startswith("nbray."):
            return False
        frame = frame.f_back
    return True
