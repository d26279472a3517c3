"""Timeouts that users give."""

from __future__ import annotations

_FOREVER_S = 2_000_000.0  # 23 days; no clock of the kernel's takes much more


def as_seconds(seconds: float | None) -> float:
    """A timeout as a number, of many days if it is None or longer than anybody lives.

    Raises:
        TypeError: it is no number. ValueError: it is NaN.
    """
    limited = as_timeout(seconds)
    return _FOREVER_S if limited is None else limited


def as_timeout(seconds: float | None) -> float | None:
    """A timeout for those who wait; None, without limit, also for what nobody lives to see.

    Raises:
        TypeError: it is no number. ValueError: it is NaN.
    """
    if seconds is None:
        return None
    if not isinstance(seconds, int | float):
        raise TypeError(f"A timeout is a number of seconds or None, not {type(seconds)}.")
    if seconds != seconds:
        raise ValueError("A timeout is a number of seconds or None, not NaN.")
    return None if seconds >= _FOREVER_S else seconds
