"""Waits with a deadline that fail with what was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> None:
    """Wait for a condition; fail with ``what`` after ``timeout`` seconds.

    Args:
        condition: what is asked again and again.
        what: what is waited for, as the error says it.
        timeout: seconds.

    Raises:
        AssertionError: it was not true in time.

    Examples:
        >>> from nbray.testing import wait_until
        >>> ref = nbray.remote(abs).remote(-1)
        >>> wait_until(lambda: nbray.wait([ref], timeout=0)[0], "the task's end")
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)
