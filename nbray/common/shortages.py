"""What a process or its machine lacks for a moment: descriptors, processes, memory."""

from __future__ import annotations

import errno

_LACKS = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS}


def is_shortage(error: OSError) -> bool:
    """Whether the same may succeed a moment later, since others give back what they have."""
    return error.errno in _LACKS
