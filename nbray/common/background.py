"""Work of an event loop that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
Request = TypeVar("Request")


class Background:
    """Runs coroutines beside everything else, and refers to them: the loop alone would not."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` from the next turn of the running loop on."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def whole(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Begin ``work``, which is done to its end also if who waits for it is cancelled.

        So it is for a call whose caller has gone: what has begun to change something would
        leave half of it, and who asks a second time is told that it is done. It begins before
        anything that is asked for after it.

        Returns:
            what waits for it.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self._wait(task)

    def wholly(
        self, handler: Callable[[Request], Coroutine[Any, Any, T]]
    ) -> Callable[[Request], Coroutine[Any, Any, T]]:
        """The handler of a call, each of which is done `whole`."""
        return lambda request: self.whole(handler(request))

    async def _wait(self, task: asyncio.Task[T]) -> T:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                task.add_done_callback(self._ended)
            raise

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%r was ended by an error.", task.get_coro(), exc_info=error)
