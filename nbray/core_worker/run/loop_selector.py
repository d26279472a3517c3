"""The selector of an async actor's event loop, which drives the process's sockets while it waits.

A call that came in another thread had to cross to the loop, and its reply back: two wake-ups, and
the interpreter's lock between them. So the loop's own thread takes the baton when it has nothing
to do, as any thread that waits (`nbray.wire.reactor`); the main thread rests. A coroutine that
blocks holds nobody up: it has no baton, and the background thread drives meanwhile.

The descriptors that coroutines wait for are in an epoll of their own, and that one among the
sockets: each time it has news, whoever drives at that moment lets the loop look. `select` announces
that it waits before it looks for the last time, so that no news is lost between.

What messages bring about while it waits happens outside of the loop, as asyncio is told: else, from
Python 3.14 on, a future of theirs has its callbacks called by the loop's next turn, for which
nobody wakes it.
"""

from __future__ import annotations

import select
import selectors
from asyncio import _get_running_loop, _set_running_loop
from collections.abc import Callable
from threading import get_ident
from typing import Protocol

from nbray.exceptions import NbraySystemError
from nbray.wire.waiting import Waiter


class Drives(Protocol):
    """What waits for the process's sockets and for more (`nbray.wire.reactor.Reactor`)."""

    stopped: bool

    def watch(
        self, fd: int, handler: Callable[[int], None], close: Callable[[], None],
        events: int = select.EPOLLIN,
    ) -> None:  # fmt: skip
        """Have ``handler`` called with the events of a descriptor."""

    def wait(self, waiter: Waiter, timeout: float | None = None) -> bool:
        """Wait until ``waiter`` is done; False after ``timeout`` seconds."""

    def try_turn(self) -> None:
        """Do one turn without waiting, if nobody else does."""


class LoopSelector(selectors.EpollSelector):
    """Waits for what coroutines wait for, and for messages."""

    def __init__(self, drives: Drives) -> None:
        super().__init__()
        self._drives = drives
        self._thread = 0
        self._waiter: Waiter | None = None
        self._news = True
        drives.watch(self.fileno(), self._has_news, lambda: None, select.EPOLLIN | select.EPOLLET)

    def _has_news(self, _events: int) -> None:
        self._news = True
        self.look()

    def is_of_this_thread(self) -> bool:
        """Whether the loop runs in the thread that asks."""
        return self._thread == get_ident()

    def look(self) -> None:
        """The loop has something to do besides."""
        waiter = self._waiter
        if waiter is not None:
            waiter.complete_one()

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; without a look if there is no news since one that found nothing."""
        if not self._news:
            return []
        self._news = False  # before the look, so that none behind it is lost
        ready = super().select(0)
        if ready:  # and may be so at the next look, without being announced again
            self._news = True
        return ready

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; waits at most ``timeout`` seconds, None: for any time."""
        if timeout is not None and timeout <= 0:
            return super().select(0)
        self._thread = get_ident()
        waiter = self._waiter = Waiter()
        loop = _get_running_loop()
        _set_running_loop(None)
        try:
            ready = self._ready()
            if ready:
                return ready
            self._drives.wait(waiter, timeout)
        except NbraySystemError:  # the process leaves the cluster, and may run coroutines still
            if not self._drives.stopped:
                raise
            return super().select(timeout)
        finally:
            self._waiter = None
            _set_running_loop(loop)
        return self._ready()
