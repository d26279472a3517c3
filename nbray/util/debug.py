"""Logging that does not repeat itself."""

from __future__ import annotations

import time

_seen: dict[str, object] = {}

_never = False
_again = False
_AGAIN_S = 60.0
_said = 0.0


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
    global _said
    if _never:
        return False
    mine = object()
    first = _seen.setdefault(key, mine) is mine  # in one step, whatever other threads do
    if first:
        _said = time.monotonic()
    elif _again and time.monotonic() - _said > _AGAIN_S:
        _said = time.monotonic()
        _seen.clear()
    return first


def enable_periodic_logging() -> None:
    """Have `log_once` say yes for each key once more when it has been silent for a minute.

    Examples:
        ```python
        from nbray.util import enable_periodic_logging, log_once

        enable_periodic_logging()
        for step in range(1000):
            if log_once("still here"):  # now, and if there are minutes of steps, once in each
                print("still at work, at step", step)
        ```
    """
    global _again
    _again = True


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


def reset_log_once(key: str | None = None) -> None:
    """Have `log_once` say yes once more for ``key``.

    Args:
        key: names what is logged; None: everything.

    Examples:
        >>> from nbray.util.debug import log_once, reset_log_once
        >>> log_once("again")
        True
        >>> reset_log_once("again")
        >>> log_once("again")
        True
    """
    if key is None:
        _seen.clear()
    else:
        _seen.pop(key, None)
