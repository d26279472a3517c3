"""The time that a process has seen itself."""

from __future__ import annotations

import time
from collections.abc import Callable


class OwnTime:
    """A clock that stands still while this process does: stopped, swapped out, without a CPU.

    It is read often. Of what passes between two readings it counts at most ``longest_s``, so
    nobody is taken for silent whom this process could not have heard. Who reads it less often for a
    while sets that.
    """

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.longest_s = longest_s
        self._clock = clock
        self._read = clock()
        self._seconds = 0.0

    def now(self) -> float:
        """Seconds since some moment."""
        read = self._clock()
        self._seconds += min(read - self._read, self.longest_s)
        self._read = read
        return self._seconds
