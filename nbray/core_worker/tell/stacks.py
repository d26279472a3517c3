"""What the threads of this process do: once, or counted over some seconds, for who profiles it.

A thread of its own looks, so that the one that runs the user's code and the one that serves the
sockets are not held up; it needs the GIL for each look, as all that is Python does. A process that
does not give the GIL away cannot answer: `py-spy` looks from outside.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

from nbray.core_worker.ports import Sink
from nbray.wire.watching_messages import StacksTold, TellStacks

logger = logging.getLogger(__name__)

_DEEPEST = 120
_MOST_STACKS = 5000
_LONGEST_S = 60.0
_OVERHEAD = 0.1
_NAME = "nbray-profile"


class StackTeller:
    """Answers for this process, one question at a time."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._busy = threading.Lock()

    def on_tell(self, message: TellStacks) -> None:
        """The raylet asks; under the baton."""
        threading.Thread(target=self._answer, args=(message,), name=_NAME, daemon=True).start()

    def _answer(self, message: TellStacks) -> None:
        answer = StacksTold(message.request_id)
        if not self._busy.acquire(blocking=False):
            answer.error = "This process is being profiled already."
        else:
            try:
                look = allocated if message.memory else sampled
                counts = look(min(message.seconds, _LONGEST_S), message.per_s)
                answer.counts = dict(counts.most_common(_MOST_STACKS))
            except Exception as error:  # of a library that looks into the interpreter
                logger.exception("A profile was not made")
                answer.error = f"{type(error).__name__}: {error}"
            finally:
                self._busy.release()
        self._sink.post(lambda: self._tell(answer))

    def _tell(self, answer: StacksTold) -> None:
        self._sink.to_raylet(answer)


def sampled(
    seconds: float, per_s: float, clock: Callable[[], float] = time.monotonic
) -> Counter[str]:
    """How often each stack was seen, outermost frame first, joined by ";"; once without seconds."""
    counts: Counter[str] = Counter()
    until = clock() + seconds
    while True:
        began = clock()
        for stack in now():
            if stack in counts or len(counts) < 4 * _MOST_STACKS:
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
        if ident != me and names.get(ident) != _NAME
    ]


def _stack(thread: str, frame: FrameType | None) -> str:
    lines: list[str] = []
    while frame is not None and len(lines) < _DEEPEST:
        code = frame.f_code
        lines.append(_line(code.co_qualname, code.co_filename, frame.f_lineno or 0))
        frame = frame.f_back
    lines.append(_clean(thread))
    return ";".join(reversed(lines))


def _line(function: str, path: str, number: int) -> str:
    return _clean(f"{function} ({path}:{number})")


def _clean(text: str) -> str:
    return text.replace(";", ",").encode(errors="replace").decode()


def allocated(seconds: float, _per_s: float) -> Counter[str]:
    """Bytes that were allocated meanwhile and are still there, by stack, as memray knows them.

    Raises:
        ImportError: memray is not installed where this process runs.
    """
    import memray

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "memory")
        with memray.Tracker(path):
            time.sleep(seconds)
        counts: Counter[str] = Counter()
        with memray.FileReader(path) as reader:
            for record in reader.get_leaked_allocation_records(merge_threads=True):
                frames = record.stack_trace(max_stacks=_DEEPEST)
                lines = [_line(*frame) for frame in reversed(frames)] or ["(not Python)"]
                counts[";".join(lines)] += record.size
        return counts
