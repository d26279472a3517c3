"""The threads of one concurrency group of a threaded actor.

What `concurrent.futures` does besides, a future for each call and a semaphore for who is idle, was
a third of what a small call costs.
"""

from __future__ import annotations

import logging
import threading
from _thread import allocate_lock
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger(__name__)


class CallPool:
    """At most ``size`` threads, begun as they are needed; none of them keeps the process alive."""

    def __init__(self, group: str, size: int) -> None:
        self._size = size
        self._name = f"nbray-actor-{group}" if group else "nbray-actor"
        self._calls: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
        self._lock = allocate_lock()
        self._unfinished = 0
        self._threads = 0

    def start(self, call: Callable[..., None], *args: Any) -> None:
        """Have a call run as soon as a thread is free. From any thread."""
        self._calls.put((call, args))
        with self._lock:
            self._unfinished += 1
            if self._threads >= min(self._unfinished, self._size):
                return
            self._threads += 1
            number = self._threads
        name = f"{self._name}-{number}"
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._threads -= 1
                if not self._threads:  # nobody would ever run it
                    raise
            logger.warning("There is no more than %d threads: %s", number - 1, error)

    def _serve(self) -> None:
        while True:
            call, args = self._calls.get()
            try:
                call(*args)
            except Exception:
                logger.exception("A call was not answered.")
            del call, args  # what the call refers to is not held until the next one
            with self._lock:
                self._unfinished -= 1
