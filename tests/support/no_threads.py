"""A process that can start no more threads, as at a limit of its user, which root does not have."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


def _refused(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@contextmanager
def no_thread_left() -> Iterator[None]:
    """It can start none."""
    with patch.object(threading.Thread, "start", _refused):
        yield
