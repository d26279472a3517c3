"""Figures as people read them."""

from __future__ import annotations

import time

from nbray.common.text import one_line
from nbray.state.text import size_text

__all__ = ["ago", "amounts", "clock", "count", "duration", "first_line", "one_line", "size_text"]

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 node``, ``3,000 nodes``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def ago(time_ms: float | None, now_ms: float) -> str:
    """How long ago; steps of five seconds, so that it does not change all the time."""
    if not time_ms:
        return ""
    seconds = max(0.0, (now_ms - time_ms) / 1000)
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds // 5 * 5:.0f} s"


def figures(number: float) -> str:
    """Three digits that count, or all before the point: ``0.123``, ``12.3``, ``1,235``."""
    return f"{number:,.0f}" if abs(number) >= 99.95 else f"{number:.3g}"


def duration(seconds: float | None) -> str:
    """``3.2 ms``, ``12 s``, ``4.5 min``."""
    if seconds is None:
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{figures(seconds * 1e3)} ms"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{figures(seconds / size)} {unit}"
    return f"{figures(seconds)} s"


def clock(time_ms: float | None) -> str:
    """The time of the day where the dashboard runs, with the date if that is not today's."""
    if not time_ms:
        return ""
    when, today = time.localtime(time_ms / 1000), time.localtime()
    form = "%H:%M:%S" if when[:3] == today[:3] else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, when)


def amounts(resources: dict[str, float] | None) -> str:
    """Resources with their amounts."""
    return ", ".join(
        f"{name} {size_text(n) if 'memory' in name else format(n, 'g')}"
        for name, n in (resources or {}).items()
        if not name.startswith("node:")
    )


def first_line(text: str | None) -> str:
    """The first line of a text."""
    return (text or "").strip().split("\n", 1)[0]


def last_line(text: str | None) -> str:
    """The last line of a text: what a traceback ends with."""
    return (text or "").strip().rsplit("\n", 1)[-1]
