"""Processes that can open no more files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def no_file_left(pid: int = 0, most: int = 3) -> Iterator[None]:
    """It can open none, as at its limit; a process cannot be started without one either.

    Args:
        pid: of the process, by default this one.
        most: the descriptors from there on cannot be had.
    """
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)  # needs no descriptor, as psutil may
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, limits[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
