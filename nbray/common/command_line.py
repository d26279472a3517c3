"""What `ps` shows of a process that was forked and is something else than its parent."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from nbray.common.pids import stat_fields

_ARG_START = 45
_ARG_END = 46


def show_command_line(words: Sequence[str]) -> None:
    """Put other words in the place of those that this process was started with.

    They are written where the system reads them. What does not fit there is left as it is, and so
    is all where the system does not tell the place, as in some sandboxes.
    """
    fields = stat_fields("self")
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    text = b"".join(os.fsencode(word) + b"\0" for word in words)
    if start > 0 and len(text) <= end - start:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
