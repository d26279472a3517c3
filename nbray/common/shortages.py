"""What a process or its machine lacks for a moment: descriptors, processes, memory."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_LACKS = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS}
_PATIENCE_S = 10.0
_AGAIN_S = 0.25


def is_shortage(error: OSError) -> bool:
    """Whether the same may succeed a moment later, since others give back what they have."""
    return error.errno in _LACKS


async def after_shortages(
    act: Callable[[], Awaitable[T]],
    tell: Callable[[OSError], None],
    passes: Callable[[OSError], bool] = is_shortage,
) -> T:
    """What ``act`` gives; for ten seconds it is done again when something is lacking.

    Args:
        act: what is to be done.
        tell: called with each error that may pass.
        passes: whether one may.

    Raises:
        OSError: it does not pass, or has not in that time.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await act()
        except OSError as error:
            if not passes(error) or time.monotonic() >= until:
                raise
            tell(error)
        await asyncio.sleep(_AGAIN_S)
