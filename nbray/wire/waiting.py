"""How a thread waits: what for, how long it stays awake, and what an interrupt does then."""

from __future__ import annotations

import _signal
import os
import signal
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbray.wire.reactor import Reactor

SPIN_S = 0.0002
_SIGINT = int(signal.SIGINT)
Poll = Callable[[float], list[tuple[int, int]]]


class Waiter:
    """Something a thread waits for: done after ``remaining`` completions."""

    __slots__ = ("_lock", "remaining")

    def __init__(self, remaining: int = 1) -> None:
        self.remaining = remaining
        self._lock = allocate_lock()
        self._lock.acquire()

    def complete_one(self) -> None:
        """Count one completion and wake the thread at the last one."""
        self.remaining -= 1
        if self.remaining <= 0:
            self.wake()

    def wake(self) -> None:
        """Let the waiting thread look again."""
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                return  # another thread woke it at the same moment

    def sleep(self, timeout: float) -> None:
        """Sleep until woken; ``timeout`` in seconds, negative for no limit."""
        self._lock.acquire(timeout=timeout)


class DeferredInterrupt:
    """Notes SIGINT while the main thread holds the baton and raises it afterwards.

    `_signal` is what the module signal wraps: its wrappers make two enum members per call, which
    took a tenth of a synchronous actor call.
    """

    __slots__ = ("_previous", "_reactor", "_waiter", "noted")

    def __init__(self, reactor: Reactor, waiter: Waiter) -> None:
        self._reactor = reactor
        self._waiter = waiter
        self.noted = False
        self._previous: Any = None

    def __enter__(self) -> DeferredInterrupt:
        if get_ident() == self._reactor.main_thread:
            previous = _signal.getsignal(_SIGINT)
            if callable(previous):
                self._previous = previous
                _signal.signal(_SIGINT, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.noted = True
        self._reactor.wake()
        self._waiter.wake()

    def __exit__(self, *exc: object) -> None:
        if self._previous is not None:
            _signal.signal(_SIGINT, self._previous)
            if self.noted:
                self._previous(_SIGINT, None)


class Spinner:
    """Polls without sleeping for a moment, as long as that is worth it.

    To sleep in the kernel and be woken costs 30 us on each side of a wire, as much as all else
    in a small call. So a thread that waits first polls for up to `SPIN_S`, and yields its core
    to whoever wants it; waits that turn out longer use the credit for that up, and short ones
    restore it.
    """

    _MOST = 8

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._credit = 2

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Events within ``timeout`` seconds (-1: no limit)."""
        start = perf_counter()
        if self._credit > 0:
            until = start + SPIN_S
            while True:
                events = self._poll(0.0)
                if events:
                    if self._credit < self._MOST:
                        self._credit += 1
                    return events
                if perf_counter() > until:
                    break
                os.sched_yield()
            self._credit -= 1
            return self._poll(timeout)
        events = self._poll(timeout)
        if perf_counter() - start < SPIN_S:
            self._credit = 2
        return events
