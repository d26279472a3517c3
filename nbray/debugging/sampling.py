"""Where the time and the memory of a cell's tasks go, seen from inside their worker.

A thread looks a hundred times a second while such tasks run. It needs the GIL for that, so a look
that comes late counts for all the time since the one before: code that held the GIL for three
seconds stands there for three seconds. What a task did between two looks is its own time all the
same. Memory is what the process has grown by between two looks, by the stack that was seen then.
With `PROFILE_MEMORY` it is what Python's allocations were at their highest (`allocations`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

import msgspec

from .allocations import Allocations
from .marks import PROFILE, PROFILE_MEMORY
from .stacks import DEEPEST, LOOKS, MOST_STACKS, clean, line_of
from .taking import is_ours

_ROOT = os.path.dirname(os.path.dirname(__file__)) + os.sep
_PERIOD_S = 0.01
_OVERHEAD = 0.1
_TELL_S = 0.25
_IDLE_S = 1.0
_SHORT_US = 50_000
_LONG_S = 0.05
_IMPORTS = "<frozen importlib._bootstrap>"
_IMPORTERS = ("importlib", "importlib._bootstrap")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Seen(msgspec.Struct, array_like=True):
    """What was seen since the last one: microseconds and bytes by stack; ``pid``'s.

    ``ended``: tasks. ``peak``: of the process, in bytes. ``exact``: the bytes are those of
    allocations at their highest, and take the place of what was told before. ``note``: what of
    them is an estimate.
    """

    pid: int
    time: dict[str, int] = {}
    memory: dict[str, int] = {}
    ended: int = 0
    peak: int = 0
    exact: bool = False
    note: str = ""


def encode(seen: Seen) -> bytes:
    """As it travels."""
    return msgspec.msgpack.encode(seen)


def decode(data: bytes) -> Seen:
    """What came.

    Raises:
        msgspec.DecodeError: it is no `Seen`.
    """
    return msgspec.msgpack.decode(data, type=Seen)


Tell = Callable[[int, Seen], None]
"""Takes the number of a cell and what was seen of it."""


@dataclass
class _Running:
    """A task: of which cell, and how much of its time has been seen."""

    name: str
    origin: int
    began: float
    seen: float = 0.0
    last: str = ""


@dataclass
class _Counts:
    time: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    ended: int = 0
    told: float = 0.0

    def add(self, kind: dict[str, int], stack: str, amount: float) -> None:
        if stack not in kind and len(kind) >= MOST_STACKS:
            stack = "(many more stacks)"
        kind[stack] = kind.get(stack, 0) + int(amount)


class Sampler:
    """Looks at the tasks of one worker that are watched. Its methods are for any thread."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._running: dict[int, list[_Running]] = {}
        self._counts: dict[int, _Counts] = {}
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._rss = self._peak = 0
        self._allocations = Allocations()

    def enter(self, name: str, origin: int) -> None:
        """A task begins in this thread."""
        if not origin & (PROFILE | PROFILE_MEMORY):
            return
        with self._lock:
            mine = self._running.setdefault(threading.get_ident(), [])
            mine.append(_Running(name, origin, time.monotonic()))
            if origin & PROFILE_MEMORY:
                self._allocations.start()
            if self._thread is None:
                self._rss = _rss()
                thread = threading.Thread(target=self._look, name=LOOKS, daemon=True)
                thread.start()  # or it is tried again with the next task
                self._thread = thread
        self._woken.set()

    def leave(self, name: str, origin: int) -> None:
        """It ends; called in the thread in which it began."""
        if not origin & (PROFILE | PROFILE_MEMORY):
            return
        now = time.monotonic()
        with self._lock:
            mine = self._running.get(threading.get_ident(), [])
            task = next((t for t in mine if t.name == name and t.origin == origin), None)
            if task is None:
                return
            mine.remove(task)
            if not mine:
                del self._running[threading.get_ident()]
            counts = self._counts.setdefault(origin, _Counts())
            counts.ended += 1
            rest = (now - task.began - task.seen) * 1e6
            if rest > 0:
                unseen = "between two looks" if rest < _SHORT_US else "waits in its event loop"
                stack = task.last or f"{clean(name)};({unseen})"
                counts.add(counts.time, stack, rest)
            self._grown(counts, task.last or clean(name))
            if origin & PROFILE_MEMORY:
                self._allocations.measure(now, worth_s=now - task.began)
                others = (t.origin for tasks in self._running.values() for t in tasks)
                if not any(one & PROFILE_MEMORY for one in others):
                    self._allocations.stop()
            self._told(origin, counts, now, always=now - task.began >= _LONG_S)

    # --- with the lock --------------------

    def _told(self, origin: int, counts: _Counts, now: float, always: bool = False) -> None:
        """Tell it; of short tasks four times a second."""
        if not always and counts.told and now - counts.told < _TELL_S:
            return
        seen = Seen(os.getpid(), counts.time, counts.memory, counts.ended, self._peak)
        if origin & PROFILE_MEMORY:
            seen.memory, seen.exact = dict(self._allocations.highest), True
            seen.note = self._allocations.note
        self._counts[origin] = _Counts(told=now)
        self._tell(origin, seen)

    def _grown(self, counts: _Counts, stack: str) -> None:
        rss = _rss()
        if rss > self._rss:
            counts.add(counts.memory, stack, rss - self._rss)
        self._allocations.grown(stack, rss)
        self._allocations.grown(stack, rss)
        self._rss, self._peak = rss, max(self._peak, rss)

    # --- the thread --------------------

    def _look(self) -> None:
        last = quiet = time.monotonic()
        while True:
            took = time.monotonic()
            with self._lock:
                now = time.monotonic()
                if self._running:
                    self._note(now, now - last)
                    quiet = now
                for origin, counts in list(self._counts.items()):
                    if counts.time or counts.ended:
                        self._told(origin, counts, now)
                if now - quiet > _IDLE_S:
                    self._thread = None
                    self._counts.clear()
                    return
                last = now
            took = time.monotonic() - took
            if self._running:
                time.sleep(min(max(_PERIOD_S, took / _OVERHEAD), _TELL_S))
            else:
                self._woken.clear()
                self._woken.wait(_TELL_S)
                last = time.monotonic()

    def _note(self, now: float, elapsed: float) -> None:
        frames = sys._current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        first: tuple[_Counts, str] | None = None
        newest: _Running | None = None
        for ident, tasks in self._running.items():
            newest = task = tasks[-1]
            counts = self._counts.setdefault(task.origin, _Counts())
            stack = stack_of(task.name, frames.get(ident))
            weight = max(0.0, min(elapsed, now - task.began - task.seen))
            task.seen += weight
            task.last = stack
            counts.add(counts.time, stack, weight * 1e6)
            first = first or (counts, stack)
            if task.origin & PROFILE_MEMORY:
                self._allocations.measure(now)
        for ident, frame in frames.items():
            name = names.get(ident, "")
            if newest is None or ident in self._running or _is_nbrays(name, frame):
                continue
            counts = self._counts.setdefault(newest.origin, _Counts())
            stack = stack_of(f"thread {name or ident}", frame)
            counts.add(counts.time, stack, elapsed * 1e6)
        if first is not None:
            self._grown(*first)


def _is_nbrays(name: str, frame: FrameType | None) -> bool:
    """Whether a thread is nbray's, or waits: between two tasks, or for whoever has work for it."""
    if name.startswith("nbray-") or name == "MainThread":
        return True
    if frame is not None and frame.f_globals.get("__name__") in ("threading", "queue", "selectors"):
        return True
    while frame is not None:
        if not is_ours(frame.f_globals.get("__name__")):
            module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            if module not in ("threading", "concurrent", "asyncio", "selectors", "queue"):
                return False
        frame = frame.f_back
    return True


def stack_of(task: str, frame: FrameType | None) -> str:
    """The user's frames of a task; where nbray waits for it, that is the innermost."""
    lines: list[str] = []
    waits = frame is not None and is_ours(frame.f_globals.get("__name__"))
    imports = False
    while frame is not None and len(lines) < DEEPEST:
        name = frame.f_globals.get("__name__")
        imports = imports and name in _IMPORTERS
        if imports or _is_an_import_of_ours(frame):
            imports, lines, waits = True, [], True
        elif not is_ours(name) and not _starts_a_worker(frame):
            lines.append(line_of(frame))
        frame = frame.f_back
    if waits:
        lines.insert(0, "(in nbray)")
    return ";".join([clean(task), *reversed(lines)])


def _is_an_import_of_ours(frame: FrameType) -> bool:
    """Whether nbray imports here what it needs itself; what a task brings with it, it does not."""
    if frame.f_code.co_filename != _IMPORTS or frame.f_code.co_name != "_find_and_load":
        return False
    asks = frame.f_back
    while asks is not None and asks.f_globals.get("__name__") in _IMPORTERS:
        asks = asks.f_back
    if asks is None or not is_ours(asks.f_globals.get("__name__")):
        return False
    top = str(frame.f_locals.get("name", "")).partition(".")[0]
    return top == "nbray" or top in sys.stdlib_module_names


def _starts_a_worker(frame: FrameType) -> bool:
    """Whether it is of the program that a worker is, which has another name than its module."""
    return frame.f_code.co_filename.startswith(_ROOT) or frame.f_globals.get("__name__") == "runpy"


def _rss() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0
