"""The sockets of a driver or worker, driven by whichever thread waits.

Theory. One thread hop costs more than a whole round trip on a Unix socket, so a thread that
waits for a result reads the sockets itself. Exactly one thread at a time holds the *baton*;
it alone touches the sockets and the state that message handlers change, so none of that needs
a lock. A thread that waits takes the baton if it is free and drives until its `Waiter` is
done; otherwise it sleeps on the waiter and is woken when it is done, or when the baton is
free for it to take over. A background thread drives when nobody waits.

The background thread never contends with a busy foreground: after a foreground use it naps for
`TICK_S`, and takes the baton only if there was no use since; a loop of short waits puts the end of
its nap off (`wire.nap`). While a foreground thread drives for long it sleeps until that one leaves.
A thread that only submits puts work into `inbox` and calls `notify`; the next holder of the baton
runs it.

A signal's handler that raises (an interrupt, a time limit) must not tear a half-handled message
apart, so while the main thread drives, signals are only noted, and their handlers run after the
baton is given back. Neither must the end of the stack: a thread that has recursed deeply leaves
the driving to the background thread. And what fails by itself, a handler or a write, is told in
the log and loses nothing of what stands behind it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import mmap
import os
import select
import threading
import weakref
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from nbray.exceptions import NbraySystemError
from nbray.wire.nap import Nap
from nbray.wire.waiting import DeferredSignals, Poll, Spinner, Waiter, is_deep, is_inside

logger = logging.getLogger(__name__)

STOPPED = "System error: nbray.shutdown() was called meanwhile. nbray.init() joins a cluster anew."
NESTED = (
    "System error: this code runs in the midst of nbray's own work, as the end of an object "
    "(__del__) or its unpickling (__setstate__) may, and so cannot wait for the cluster. "
    "Do it in a thread."
)
_LONG_S = 1.0
TICK_S = 0.002
_PUT_OFF_S = 0.008
_USES_MASK = 3  # each fourth use puts it off, which takes 0.6 us
NUDGE_S = 0.02
_MOST_UNREAD = 20
_READ_BYTES = 1 << 18


class Unwritten(Protocol):
    """Something with bytes queued, as a connection."""

    def flush(self) -> None:
        """Write them, as far as the socket takes them."""


class Reactor:
    """All watched sockets, timers and posted work of one process.

    Attributes:
        inbox: work that is to be done under the baton; any thread may append, then `notify`.
        dirty: what is flushed at the end of this turn.
        on_turn: called in each turn, before what is dirty is written.
        on_written: called behind that: for what a peer need not wait for.
        buffer: room for one read, for whoever handles a socket's events.
        nudged: `nudge` was called since it was looked at last.
        stopped: nothing is done any more.
        abandoned: for this process is a fork of the one that it belongs to.
    """

    def __init__(self) -> None:
        self.main_thread = threading.main_thread().ident
        # One for all reads: a fresh buffer of this size is a mapping made and dropped each time.
        # Of memory that nobody has written, only what is read into it ever takes room.
        self.buffer = memoryview(mmap.mmap(-1, _READ_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self.dirty: deque[Unwritten] = deque()
        self.inbox: deque[Callable[[], None]] = deque()
        self.on_turn: Callable[[], None] = lambda: None
        self.on_written: Callable[[], None] = lambda: None
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._closers: dict[int, Callable[[], None]] = {}
        self._baton = allocate_lock()
        self._waiting: deque[Waiter] = deque()
        self._sleeping: deque[Waiter] = deque()
        self._uses = 0
        self._unread = 0
        self._driving = False
        self._polling = False
        self._notified = False
        self._woken = False
        self._asleep = False
        self.nudged = False
        self._foreground_left = threading.Event()
        self._left_unseen = True  # nobody waits for that event
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_ids = itertools.count()
        self.stopped = self.abandoned = False
        self._open()

    def _open(self) -> None:
        """Make what it has of the kernel, in this process."""
        self.poller = select.epoll()
        self._spinner = Spinner(self.poller.poll)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # What still refers to this may wake it after the end, when the number is another file's.
        self._close_wake = weakref.finalize(self, os.close, self._wake_fd)
        self._close_wake.atexit = False
        self.watch(self._wake_fd, self._drain_wake, lambda: None)
        self._nap = Nap()
        self._thread = threading.Thread(target=self._background, name="nbray-reactor", daemon=True)

    def renew(self) -> None:
        """This process is a fork of the one that made this and did nothing with it: it is ours.

        The descriptors are those of the other process still, and the thread never starts in a fork.
        """
        self._close()
        self._close_wake()
        self._nap.close()
        self._open()

    def start(self) -> None:
        """Start the background thread that drives when nobody waits."""
        self._thread.start()

    def stop(self, close: bool = True) -> None:
        """Flush, close every connection and end the background thread; who waits is refused.

        Without ``close``, the end of the process closes them, which follows.
        """
        self.stopped = True
        self._foreground_left.set()
        self.wake()
        for waiter in [*self._waiting, *self._sleeping]:
            waiter.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5.0)
        if self._baton.acquire(timeout=5.0):
            self._turn(0.0, self.poller.poll)
            self._work()
            if close:  # now, and not when the last variable that leads here has gone
                self._close()

    def abandon(self) -> None:
        """Close this process's copies of the sockets of its parent, which goes on with its own."""
        self.stopped = self.abandoned = True
        self._asleep = self._polling = False
        self._close()

    def _close(self) -> None:
        for close in list(self._closers.values()):
            close()
        self._closers.clear()
        self._handlers.clear()
        self.poller.close()

    # --- sockets --------------------

    def watch(
        self, fd: int, handler: Callable[[int], None], close: Callable[[], None],
        events: int = select.EPOLLIN,
    ) -> None:  # fmt: skip
        """Have ``handler`` called with the events of a descriptor, at first when it is readable.

        ``close`` is called when the reactor stops.
        """
        self._handlers[fd] = handler
        self._closers[fd] = close
        self.poller.register(fd, events)

    def forget(self, fd: int) -> None:
        """Watch that descriptor no more."""
        if self._handlers.pop(fd, None) is not None:
            del self._closers[fd]
            self.poller.unregister(fd)

    # --- timers and posted work --------------------

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run ``action`` under the baton after ``seconds``."""
        heapq.heappush(self._timers, (monotonic() + seconds, next(self._timer_ids), action))

    def post(self, action: Callable[[], None]) -> None:
        """Run ``action`` under the baton soon; from any thread."""
        self.inbox.append(action)
        self.notify()

    def notify(self) -> None:
        """Tell that there is work in an inbox; cheap when somebody is about to look anyway.

        Who polls is woken once: until it runs, it needs the interpreter's lock, which each further
        write would hand to and fro.
        """
        self._notified = True
        if self._polling and not self._woken:
            self._woken = True
            self.wake()

    def nudge(self) -> None:
        """Tell that there is work which can wait for `NUDGE_S`; from any thread, any often.

        A reader that sleeps for long is woken once; then it looks again after `NUDGE_S`, so that
        a loop which drops a ref each time does not wake another thread each time.
        """
        self.nudged = True
        if self._asleep:
            self._asleep = False
            self.wake()

    def wake(self) -> None:
        """Interrupt whoever polls."""
        os.eventfd_write(self._wake_fd, 1)

    def _drain_wake(self, _events: int) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return  # somebody else drained it

    # --- driving --------------------

    def _turn(self, timeout: float, poll: Poll) -> None:
        """One turn: posted work, writes, then reads."""
        self._work()
        self._read(timeout, poll)

    def _read(self, timeout: float, poll: Poll) -> None:
        """Wait for messages for at most ``timeout`` s (-1: any), and handle them."""
        self._unread = 0
        timers, is_due = self._timers, False
        if timers:
            until = timers[0][0] - monotonic()
            if until <= 0:
                timeout, is_due = 0.0, True
            elif until < timeout or timeout < 0:
                timeout = until  # the next look finds it due
        self._polling = True
        self._asleep = is_long = timeout < 0 or timeout > NUDGE_S
        if self.nudged:  # looked at after `_asleep` is set, so that no nudge is lost between
            self.nudged = self._asleep = False
            if is_long:
                timeout = NUDGE_S
        if self.inbox or self._notified:  # after `_work` had looked, and before `_polling` was set
            timeout = 0.0
        events = poll(timeout)
        # Cleared before the next look at the inboxes and at who waits, never after it.
        self._asleep = self._polling = self._notified = self._woken = False
        for fd, mask in events:
            handler = self._handlers.get(fd)
            if handler is not None:
                try:
                    handler(mask)
                except Exception:
                    logger.exception("What came over a socket was not handled; the others are.")
        if is_due:
            self._run_timers()

    def _run_timers(self) -> None:
        timers, now = self._timers, monotonic()
        while timers and timers[0][0] <= now:
            try:
                heapq.heappop(timers)[2]()
            except Exception:
                logger.exception("A timer's work failed; the process goes on.")

    def _work(self) -> None:
        """Do what is posted and write what is queued; what fails loses nothing behind it."""
        inbox, dirty = self.inbox, self.dirty
        while inbox:
            try:
                inbox.popleft()()
            except Exception:
                logger.exception("Posted work failed; the process goes on.")
        try:
            self.on_turn()
        except Exception:
            logger.exception("A turn failed; the process goes on.")
        if dirty:
            self._write()
        try:
            self.on_written()
        except Exception:
            logger.exception("What follows a turn failed; the process goes on.")
        if dirty:
            self._write()

    def _write(self) -> None:
        dirty = self.dirty
        while dirty:
            try:
                dirty.popleft().flush()
            except Exception:
                logger.exception("A write failed; the other connections go on.")

    def _leave(self) -> None:
        """Give the baton back and wake one waiting thread to take it."""
        self._driving = False
        self._uses = uses = self._uses + 1
        self._baton.release()
        if not uses & _USES_MASK:
            self._nap.put_off(_PUT_OFF_S)
        if self._waiting:
            for waiter in list(self._waiting):
                if waiter.remaining > 0:
                    waiter.wake()
                    return
        if not self._left_unseen:
            self._left_unseen = True
            self._foreground_left.set()

    def try_turn(self) -> None:
        """Do one turn without waiting; if another thread holds the baton, it is to do one."""
        if self._baton.locked():
            self._notified = True
            if self._polling:
                self.wake()  # and give it the interpreter's lock
            return
        if is_deep():
            self.notify()
            return
        signals = DeferredSignals(self, Waiter())
        with signals:
            if not self.stopped and self._baton.acquire(blocking=False):
                try:
                    self._turn(0.0, self.poller.poll)
                    self._work()
                finally:
                    self._leave()
        if signals.noted:
            signals.run_handlers()

    def wait(self, waiter: Waiter, timeout: float | None = None, harmless: object = None) -> bool:
        """Wait until ``waiter`` is done; False after ``timeout`` seconds (None: no limit).

        A signal's handler runs in between, as in the waits of Python itself (PEP 475): the wait
        goes on unless it raises. A ``harmless`` one never raises, and so may run at any moment.

        Raises:
            BaseException: what a handler raised, as KeyboardInterrupt; no state is torn.
            NbraySystemError: the reactor was stopped, or this thread drives it already.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            signals = DeferredSignals(self, waiter, harmless)
            with signals:
                if not is_deep() and self._baton.acquire(False):
                    self._drive(waiter, deadline, signals)
                else:
                    self._wait(waiter, deadline, signals)
            if signals.noted:
                signals.run_handlers()
            elif self.stopped and waiter.remaining > 0:
                raise NbraySystemError(STOPPED)
            else:
                return waiter.remaining <= 0

    def rest(self, waiter: Waiter) -> None:
        """Wait until ``waiter`` is done, or the reactor stops, and leave the driving to others.

        Signals' handlers run meanwhile.
        """
        waiter.arm()
        self._sleeping.append(waiter)
        try:
            self.notify()
            while waiter.remaining > 0 and not self.stopped:
                waiter.sleep(-1)
        finally:
            self._sleeping.remove(waiter)

    def _wait(self, waiter: Waiter, deadline: float | None, signals: DeferredSignals) -> None:
        """Wait until ``waiter`` is done, its time is over, or a signal came, when others drive."""
        waiter.arm()
        deep = is_deep()
        while waiter.remaining > 0 and not signals.noted and not self.stopped:
            left = -1.0 if deadline is None else deadline - monotonic()
            if deadline is not None and left <= 0:
                return
            if deep:  # the background thread has room for what comes
                self._sleeping.append(waiter)
                self.notify()
                if not self.stopped:
                    waiter.sleep(left)
                self._sleeping.remove(waiter)
                continue
            if self._baton.acquire(False):
                self._drive(waiter, deadline, signals)
                return
            self._waiting.append(waiter)
            try:
                self.notify()
                if self._baton.locked() and not self.stopped:
                    woken = waiter.sleep(left if 0 <= left < _LONG_S else _LONG_S)
                    if not woken and is_inside(_DRIVING):
                        raise NbraySystemError(NESTED)
            finally:
                self._waiting.remove(waiter)

    def _drive(self, waiter: Waiter, deadline: float | None, signals: DeferredSignals) -> None:
        """Make turns until ``waiter`` is done. What they leave is done by the next one.

        That is this thread's next wait, or the background thread's, a few ticks later.
        """
        self._driving = True
        self._notified = False  # `_work` looks after this
        left = -1.0
        try:
            while waiter.remaining > 0 and not signals.noted and not self.stopped:
                self._work()
                # That may have been all: what it waits for can be there since before it asked.
                if waiter.remaining <= 0 or signals.noted:
                    self._unread += 1
                    if self._unread > _MOST_UNREAD:  # a loop of calls that fail at once
                        self._read(0.0, self.poller.poll)
                    break
                if deadline is not None:
                    left = deadline - monotonic()
                    if left <= 0:
                        break
                self._read(left, self._spinner.poll)
        finally:
            self._leave()

    def _background(self) -> None:
        while not self.stopped:
            seen = self._uses
            self._nap.sleep(TICK_S)
            if self._driving:
                if self._uses != seen:
                    continue  # one short wait after the other: to be told of each end costs more
                self._foreground_left.clear()
                self._left_unseen = False
                if self._driving:
                    self._foreground_left.wait()
                continue
            if self._uses != seen or not self._baton.acquire(blocking=False):
                continue
            try:
                while not self._waiting and not self.stopped:
                    self._turn(-1.0, self.poller.poll)
            finally:
                uses = self._uses
                self._leave()
                self._uses = uses


# Whoever calls these holds the baton; all else is called by them.
_DRIVING = frozenset({Reactor._read.__code__, Reactor._work.__code__})
