"""Work of an event loop that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0

T = TypeVar("T")
Request = TypeVar("Request")


async def keep_on(work: Callable[[], Coroutine[Any, Any, None]], name: str = "") -> None:
    """Run what goes on for ever: after an error it begins anew a moment later.

    What is done again and again fails now and then, as while the machine has no descriptor, no
    process or no room on its disk left, and nobody would miss it before it is needed.

    Args:
        work: makes the coroutine to be run.
        name: of the work, for the log; that of its function by default.
    """
    name = name or getattr(work, "__qualname__", repr(work))
    while True:
        try:
            await work()
            return
        except Exception:
            logger.exception("%s failed, and begins anew in %.0f s.", name, _AGAIN_S)
        await asyncio.sleep(_AGAIN_S)


class Background:
    """Runs coroutines beside everything else, and refers to them: the loop alone would not."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` from the next turn of the running loop on."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def forever(self, work: Callable[[], Coroutine[Any, Any, None]], name: str = "") -> None:
        """Run what goes on for ever from the next turn on, also after errors (`keep_on`)."""
        self.start(keep_on(work, name))

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
