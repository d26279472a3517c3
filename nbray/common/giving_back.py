"""Memory that a process has freed and still holds: how it goes back to the machine.

A dict keeps the room of the most that it ever held until something is entered that does not fit,
and the C library keeps what lies between blocks in use. After a million tasks, that was 170 MB.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from operator import call
from pathlib import Path
from typing import Any, Protocol

_GIVE_BACK_S = 1.0
_CALL: Callable[[Any], Any] = call
_MADV_DONTNEED = 4


def shrink(table: dict[Any, Any]) -> None:
    """Let a dict have the room that it needs, in place; other threads may use it meanwhile.

    Its keys must be compared without Python's code, as bytes and texts are. No other thread comes
    between the three steps, for they are made by one call of C that runs no bytecode: a thread is
    changed between bytecodes, and the collector, which may call finalizers, waits.
    """
    kept: dict[Any, Any] = {}
    steps: tuple[Callable[[], object], ...]
    steps = partial(kept.update, table), table.clear, partial(table.update, kept)
    collects = gc.isenabled()
    gc.disable()
    try:
        deque(map(_CALL, steps), maxlen=0)
    finally:
        if collects:
            gc.enable()


def give_memory_back() -> None:
    """Have the C library return what has been freed; it keeps much of large blocks otherwise.

    A few thousand dead objects that the interpreter keeps for the next of their kind lie scattered
    over all the memory that millions had, and hold it. Only a full collection drops them, so there
    is one that finds nothing to look at, since for this moment everything is frozen.
    """
    import ctypes

    if not gc.get_freeze_count():  # what the program has frozen stays so
        gc.freeze()
        try:
            gc.collect()
        finally:
            gc.unfreeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


class Clock(Protocol):
    """What calls back after a while."""

    def call_later(self, seconds: float, action: Callable[[], None]) -> object:
        """Call ``action`` then."""


class GivesBack:
    """Has what many things took go back to the machine, at most once a second."""

    def __init__(self, clock: Clock, shrink_tables: Callable[[], None]) -> None:
        """``shrink_tables`` lets the tables have the room that they need."""
        self._clock = clock
        self._shrink_tables = shrink_tables
        self._is_due = False

    def soon(self) -> None:
        """Most of many things have gone."""
        self._shrink_tables()
        if not self._is_due:
            self._is_due = True
            self._clock.call_later(_GIVE_BACK_S, self._give_back)

    def _give_back(self) -> None:
        self._is_due = False
        give_memory_back()


def settle() -> None:
    """Give back what only the start of this process needed, which is to do little from now on.

    The imports walk through much of the code of libraries, which stays mapped. Code is only read,
    so the machine maps it anew where it is run. A process with gRPC's threads has all of it again
    within seconds.
    """
    import ctypes

    give_memory_back()
    libc = ctypes.CDLL(None, use_errno=True)
    for start, end in _code():
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _code() -> Iterator[tuple[int, int]]:
    """Where the code of files lies that nobody has written to."""
    place: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            is_code = words[1] == "r-xp" and len(words) > 5 and words[5].startswith("/")
            start, _, end = words[0].partition("-")
            place = (int(start, 16), int(end, 16)) if is_code else None
        elif place is not None and words[0] == "Private_Dirty:":
            if words[1] == "0":
                yield place
            place = None
