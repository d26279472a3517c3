"""How a thread waits: what for, how long it stays awake, and what an interrupt does then."""

from __future__ import annotations

import _signal
import os
import signal
import sys
from _thread import LockType, allocate_lock, get_ident
from collections.abc import Callable
from time import perf_counter
from types import CodeType, FrameType
from typing import Any, Protocol

SPIN_S = 0.0002
_ROOM_FRAMES = 300
# What a program can handle at all, and would not be torn apart by anyway.
_DEFERRED = sorted(
    int(number)
    for number in signal.valid_signals()
    - {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS}
    if number < signal.SIGRTMIN
)
_getsignal, _set_signal = _signal.getsignal, _signal.signal
Poll = Callable[[float], list[tuple[int, int]]]
_MOST_EVENTS = 64  # of one look: room for a thousand, as it is else, takes as long as the look


class Waiter:
    """Something a thread waits for: done after ``remaining`` completions.

    A thread that may sleep says so first (`arm`), and looks after that whether it has to: most
    drive the sockets until it is done, and need no lock.
    """

    __slots__ = ("_lock", "remaining")

    def __init__(self, remaining: int = 1) -> None:
        self.remaining = remaining
        self._lock: LockType | None = None

    def arm(self) -> None:
        """From now on, who completes or wakes it ends a `sleep`, also one that begins later."""
        if self._lock is None:
            lock = allocate_lock()
            lock.acquire()
            self._lock = lock

    def complete_one(self) -> None:
        """Count one completion and wake the thread at the last one."""
        self.remaining -= 1
        if self.remaining <= 0 and self._lock is not None:
            self.wake()

    def failed(self) -> None:
        """Count one completion, by a failure."""
        self.complete_one()

    def wake(self) -> None:
        """Let the waiting thread look again, if it may sleep."""
        if self._lock is not None and self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                return  # another thread woke it at the same moment

    def sleep(self, timeout: float) -> bool:
        """Sleep until woken; False after ``timeout`` seconds, negative for no limit."""
        assert self._lock is not None
        return self._lock.acquire(timeout=timeout)


class UntilFailure(Waiter):
    """Done at the first failure, too: for who needs all of several."""

    __slots__ = ()

    def failed(self) -> None:
        """One has failed: the others are not waited for."""
        self.remaining = 1
        self.complete_one()


class Woken(Protocol):
    """Whoever holds the baton, as a signal knows it.

    Attributes:
        main_thread: the ident of the thread that runs the program's handlers.
    """

    main_thread: int | None

    def wake(self) -> None:
        """Interrupt whoever polls."""


class DeferredSignals:
    """Notes the signals that come while the main thread holds the baton, for `run_handlers`.

    A signal handler of the program may raise (an interrupt, a time limit), and would tear a
    half-handled message apart. Python runs handlers in the main thread only.

    `_signal` is what the module signal wraps: its wrappers make two enum members per call, which
    took a tenth of a synchronous actor call.
    """

    __slots__ = ("_harmless", "_previous", "_reactor", "_waiter", "noted")

    def __init__(self, reactor: Woken, waiter: Waiter, harmless: object = None) -> None:
        """A ``harmless`` handler never raises: it is left where it is."""
        self._reactor = reactor
        self._waiter = waiter
        self._harmless = harmless
        self.noted: list[int] = []
        self._previous: list[tuple[int, Any]] = []

    def __enter__(self) -> DeferredSignals:
        if get_ident() == self._reactor.main_thread:
            try:
                handlers = tuple(map(_getsignal, _DEFERRED))
                for found in _found if handlers == _seen else _see(handlers):
                    if found[1] is not self._harmless:
                        self._previous.append(found)
                        _set_signal(found[0], self._note)
            except BaseException:
                self._restore()  # a handler raised that was not yet replaced
                raise
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.noted.append(signum)
        self._reactor.wake()
        self._waiter.wake()

    def __exit__(self, *exc: object) -> None:
        if self._previous:
            self._restore()

    def _restore(self) -> None:
        try:
            while self._previous:
                _set_signal(*self._previous[-1])
                self._previous.pop()
        except BaseException:
            self._restore()  # a handler that is back raised: the others come back all the same
            raise

    def run_handlers(self) -> None:
        """Give the program what was noted; after `__exit__`, in the order of arrival.

        Raises:
            BaseException: what a handler raises. Signals behind it come again, each to its own.
        """
        while self.noted:
            signum = self.noted.pop(0)
            handler = _signal.getsignal(signum)
            if not callable(handler):
                continue
            try:
                handler(signum, sys._getframe(1))
            except BaseException:
                for later in self.noted:
                    _signal.raise_signal(later)
                raise


_seen: tuple[Any, ...] = ()
_found: list[tuple[int, Any]] = []


def _see(handlers: tuple[Any, ...]) -> list[tuple[int, Any]]:
    """The signals that the program handles, with their handlers; in the main thread.

    What was found is kept while nothing changes: a wait asks each time, and most find SIGINT alone.
    """
    global _seen, _found
    _found = [
        (signum, handler)
        for signum, handler in zip(_DEFERRED, handlers, strict=True)
        if callable(handler)
    ]
    _seen = handlers
    return _found


def forget_handlers() -> None:
    """Keep no handler that was found, nor what it belongs to: the program has others now."""
    global _seen, _found
    _seen, _found = (), []


def is_deep() -> bool:
    """Whether so little of the stack is left that a message's handler might not fit into it."""
    try:
        sys._getframe(sys.getrecursionlimit() - _ROOM_FRAMES)
    except ValueError:
        return False
    return True


def is_inside(codes: frozenset[CodeType]) -> bool:
    """Whether this thread is in a call of one of these functions."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


class Spinner:
    """Polls without sleeping for a moment, as long as that is worth it.

    To sleep in the kernel and be woken costs 30 us on each side of a wire, as much as all else
    in a small call. So a thread that waits first polls for up to `SPIN_S`, and yields its core
    to whoever wants it; waits that turn out longer use the credit for that up, and short ones
    restore it.
    """

    _MOST = 8

    def __init__(self, poll: Callable[[float, int], list[tuple[int, int]]]) -> None:
        """``poll`` takes a time in seconds and how many events there may be."""
        self._poll = poll
        self._credit = 0  # none at first: a worker that begins would burn what others need

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Events within ``timeout`` seconds (-1: no limit)."""
        start = perf_counter()
        if self._credit > 0:
            until = start + SPIN_S
            while True:
                events = self._poll(0.0, _MOST_EVENTS)
                if events:
                    if self._credit < self._MOST:
                        self._credit += 1
                    return events
                if perf_counter() > until:
                    break
                os.sched_yield()
            self._credit -= 1
            return self._poll(timeout, _MOST_EVENTS)
        events = self._poll(timeout, _MOST_EVENTS)
        if perf_counter() - start < SPIN_S:
            self._credit = 2
        return events
