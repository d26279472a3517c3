"""Logging that does not repeat itself."""

from __future__ import annotations

_seen: dict[str, object] = {}

_never = False


def log_once(key: str) -> bool:
    """Whether this process asks for the first time: ``if log_once("no-gpu"): logger.warning(...)``.

    Args:
        key: names what is logged.
    """
    if _never:
        return False
    mine = object()
    return _seen.setdefault(key, mine) is mine  # in one step, whatever other threads do


def disable_log_once_globally() -> None:
    """Have `log_once` say no from now on."""
    global _never
    _never = True


def reset_log_once(key: str) -> None:
    """Have `log_once` say yes once more for ``key``."""
    _seen.pop(key, None)
