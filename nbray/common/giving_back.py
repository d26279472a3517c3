"""Memory that a process has freed and still holds: how it goes back to the machine.

A dict keeps the room of the most that it ever held until something is entered that does not fit,
and the C library keeps what lies between blocks in use. After a million tasks, that was 170 MB.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import call
from typing import Any

_CALL: Callable[[Any], Any] = call


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
