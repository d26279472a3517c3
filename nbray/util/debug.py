"""Logging that does not repeat itself."""

from __future__ import annotations

from threading import Lock

_seen: set[str] = set()
_lock = Lock()


def log_once(key: str) -> bool:
    """Whether this process asks for the first time: ``if log_once("no-gpu"): logger.warning(...)``.

    Args:
        key: names what is logged.
    """
    with _lock:
        first = key not in _seen
        _seen.add(key)
    return first
