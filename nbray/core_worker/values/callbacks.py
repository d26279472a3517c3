"""Threads for what may wait: callbacks of futures, which are the program's, and large values.

Whoever holds the baton completes a future, and must neither run code of the program, which may ask
the cluster for something, nor wait for a transfer that it would have to drive itself.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from nbray.wire.reactor import Reactor

logger = logging.getLogger(__name__)

_PATIENCE_S = 0.05
_IDLE_S = 5.0


class HelperThreads:
    """Threads that run jobs in their order; more of them only as long as jobs stand still.

    So jobs that wait for each other (a callback for a future whose callback stands behind it) come
    to their ends, and ten thousand jobs at once do not make as many threads.

    Args:
        most_at_once: threads that are started without a look at whether the others stand still.
    """

    def __init__(self, reactor: Reactor, name: str, most_at_once: int = 1) -> None:
        self._reactor = reactor
        self._name = name
        self._most_at_once = most_at_once
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()  # which a finalizer of its thread may take again
        self._threads = 0
        self._idle = 0
        self._begun = 0
        self._looking = False

    def run(self, job: Callable[[], object]) -> None:
        """Have ``job`` run soon; from any thread."""
        with self._changed:
            self._jobs.append(job)
            if self._idle:
                self._changed.notify()
            elif self._threads < self._most_at_once:
                self._start()
            if self._looking or self._idle >= len(self._jobs):
                return
            self._looking = True
            begun = self._begun
        self._reactor.post(lambda: self._look_later(begun))

    def _look_later(self, begun: int) -> None:
        self._reactor.call_later(_PATIENCE_S, lambda: self._look(begun))

    def _look(self, begun: int) -> None:
        with self._changed:
            if not self._jobs:
                self._looking = False
                return
            if self._begun == begun:
                self._start()
            begun = self._begun
        self._look_later(begun)

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there may be one later: as long as jobs wait, it is tried
            logger.warning("A thread for callbacks of futures could not be started: %s", error)
        else:
            self._threads += 1

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._idle += 1
                    self._changed.wait_for(lambda: self._jobs, _IDLE_S)
                    self._idle -= 1
                if not self._jobs:
                    self._threads -= 1
                    return
                job = self._jobs.popleft()
                self._begun += 1
            try:
                job()
            except BaseException:
                logger.exception("A callback of a future failed.")
            del job  # and what it refers to, while this thread waits for the next


class CallbackFuture(concurrent.futures.Future[Any]):
    """A future whose callbacks may use the cluster: they run in threads of their own."""

    def __init__(self, threads: HelperThreads) -> None:
        super().__init__()
        self._threads = threads

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Have ``fn`` called with this future when it is done: at once if it is, as by anybody.

        What it submits belongs to the cell or task that adds it.
        """
        if self.done():
            super().add_done_callback(fn)
            return
        context = contextvars.copy_context()
        super().add_done_callback(lambda done: self._threads.run(lambda: context.run(fn, done)))
