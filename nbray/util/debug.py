"""Logging that does not repeat itself."""

from __future__ import annotations

_seen: dict[str, object] = {}


def log_once(key: str) -> bool:
    """Whether this process asks for the first time: ``if log_once("no-gpu"): logger.warning(...)``.

    Args:
        key: names what is logged.
    """
    mine = object()
    return _seen.setdefault(key, mine) is mine  # in one step, whatever other threads do
