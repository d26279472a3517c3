"""Logging that does not repeat itself."""

from __future__ import annotations

_seen: dict[str, object] = {}

_never = False


def log_once(key: str) -> bool:
    """Whether this process asks for the first time: ``if log_once("no-gpu"): logger.warning(...)``.

    Args:
        key: names what is logged.

    Returns:
        True once for each key; afterwards, and in processes that want no such lines, False.

    Examples:
        >>> from nbray.util import log_once
        >>> [log_once("a hint") for _ in range(3)]
        [True, False, False]
    """
    if _never:
        return False
    mine = object()
    return _seen.setdefault(key, mine) is mine  # in one step, whatever other threads do


def disable_log_once_globally() -> None:
    """Have `log_once` say no from now on.

    Examples:
        ```python
        from nbray.util import disable_log_once_globally, log_once

        disable_log_once_globally()
        assert not log_once("another hint")
        ```
    """
    global _never
    _never = True


def reset_log_once(key: str) -> None:
    """Have `log_once` say yes once more for ``key``.

    Args:
        key: names what is logged.

    Examples:
        >>> from nbray.util.debug import log_once, reset_log_once
        >>> log_once("again")
        True
        >>> reset_log_once("again")
        >>> log_once("again")
        True
    """
    _seen.pop(key, None)
