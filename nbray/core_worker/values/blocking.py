"""Waits in the middle of a task, whose CPUs others may use meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nbray.wire.waiting import Waiter


class Waits(Protocol):
    """What lets a thread wait (`nbray.wire.reactor.Reactor`)."""

    def wait(self, waiter: Waiter, timeout: float | None = None) -> bool:
        """Wait until ``waiter`` is done; False after ``timeout`` seconds."""


class Blocking:
    """How a thread of this process waits for others.

    Attributes:
        before: called with a patience in seconds before a wait; returns what ends the wait.
    """

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self.before: Callable[[float], Callable[[], None]] | None = None

    def wait(self, waiter: Waiter, timeout: float | None, patience: float = 0.0) -> bool:
        """Wait; after ``patience`` seconds, make way for other tasks."""
        resume = self.before(patience) if self.before is not None else None
        try:
            return self._waits.wait(waiter, timeout)
        finally:
            if resume is not None:
                resume()
