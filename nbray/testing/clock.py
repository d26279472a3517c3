"""A clock that a test moves."""

from __future__ import annotations


class JumpingClock:
    """Stands still, and jumps when it is told to; called as `time.monotonic` is.

    Args:
        now: seconds at which it begins.

    Examples:
        ```python
        from nbray.testing import JumpingClock

        clock = JumpingClock()
        before = clock()
        clock.jump(3600.0)
        assert clock() - before == 3600.0
        ```
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        """Seconds since some moment."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Move it, backwards too if ``seconds`` are negative, as a wall clock is set.

        Args:
            seconds: how far.
        """
        self._now += seconds
