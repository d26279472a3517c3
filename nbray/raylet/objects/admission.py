"""Which objects may be fetched now: as many bytes at once as the store can spare.

Room is taken when a transfer begins. If all that are wanted took it at once, those that wait for
their turn on the network would keep room from values that tasks make, and send them to disk.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Admission:
    """Those that may fetch, and a queue of those that may not yet.

    Args:
        limit: bytes that may be on their way at once; one object may be larger, alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._count = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size: int) -> None:
        """Wait for one's turn to fetch so many bytes; `leave` ends it."""
        if not self._waiting and self._fits(size):
            self._take(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(size)
            raise

    def leave(self, size: int) -> None:
        """They have been fetched, or will not be."""
        self._taken -= size
        self._count -= 1
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(size):
                    return
                self._take(size)
                turn.set_result(None)
            self._waiting.popleft()

    def _fits(self, size: int) -> bool:
        return not self._count or self._taken + size <= self._limit

    def _take(self, size: int) -> None:
        self._taken += size
        self._count += 1
