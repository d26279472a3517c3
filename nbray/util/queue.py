"""A queue that tasks, actors and drivers share; Ray's `Queue`."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

from nbray.actor import ActorClass, ActorHandle
from nbray.api import get, kill, wait
from nbray.common.timeouts import as_timeout


class Empty(queue.Empty):
    """There is no item, or none came in time."""


class Full(queue.Full):
    """There is no room, or none came in time."""


class Queue:
    """First in, first out, in an actor; it can be passed to tasks.

    Args:
        maxsize: most items; 0 or less: any number.
        actor_options: options of the actor.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        self.actor: ActorHandle = ActorClass(_QueueActor, actor_options or {}).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items there are."""
        return int(get(self.actor.qsize.remote()))

    def qsize(self) -> int:
        """How many items there are."""
        return self.size()

    def empty(self) -> bool:
        """Whether there is no item."""
        return bool(get(self.actor.empty.remote()))

    def full(self) -> bool:
        """Whether there is no room."""
        return bool(get(self.actor.full.remote()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits for room for at most ``timeout`` seconds if ``block``.

        Raises:
            Full: there was no room. ValueError: ``timeout`` is negative.
        """
        seconds = _seconds(block, timeout)
        if not get(self.actor.put.remote(item, seconds)):
            raise Full

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`put` for coroutines."""
        if not await self.actor.put.remote(item, _seconds(block, timeout)):
            raise Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item; waits for one for at most ``timeout`` seconds if ``block``.

        Raises:
            Empty: there was none. ValueError: ``timeout`` is negative.
        """
        found, item = get(self.actor.get.remote(_seconds(block, timeout)))
        if not found:
            raise Empty
        return item

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """`get` for coroutines."""
        found, item = await self.actor.get.remote(_seconds(block, timeout))
        if not found:
            raise Empty
        return item

    def put_nowait(self, item: Any) -> None:
        """`put` without waiting."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """`get` without waiting."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items, or none.

        Raises:
            Full: there is no room for all. TypeError: ``items`` cannot be iterated over.
        """
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        batch = list(items)
        if not get(self.actor.put_batch.remote(batch)):
            raise Full(f"Cannot add {len(batch)} items to queue of maximum size {self.maxsize}.")

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take that many items, or none.

        Raises:
            Empty: there are fewer. TypeError, ValueError: ``num_items`` is no count.
        """
        if not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        found, items = get(self.actor.get_batch.remote(num_items))
        if not found:
            raise Empty(f"Cannot get {num_items} items from the queue.")
        return list(items)

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the actor: after its running calls, for ``grace_period_s``, or at once."""
        if not force:
            wait([self.actor.__ray_terminate__.remote()], timeout=grace_period_s)
        kill(self.actor, no_restart=True)


def _seconds(block: bool, timeout: float | None) -> float | None:
    if not block:
        return 0.0
    timeout = as_timeout(timeout)
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


class _QueueActor:
    """The items, and who waits for them; outcomes are values, not exceptions."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def qsize(self) -> int:
        return self._items.qsize()

    async def empty(self) -> bool:
        return self._items.empty()

    async def full(self) -> bool:
        return self._items.full()

    async def put(self, item: Any, timeout: float | None) -> bool:
        try:
            if timeout == 0:
                self._items.put_nowait(item)
            else:
                await asyncio.wait_for(self._items.put(item), timeout)
        except (asyncio.QueueFull, TimeoutError):
            return False
        return True

    async def get(self, timeout: float | None) -> tuple[bool, Any]:
        try:
            if timeout == 0:
                return True, self._items.get_nowait()
            return True, await asyncio.wait_for(self._items.get(), timeout)
        except (asyncio.QueueEmpty, TimeoutError):
            return False, None

    async def put_batch(self, items: list[Any]) -> bool:
        if self._maxsize > 0 and self._items.qsize() + len(items) > self._maxsize:
            return False
        for item in items:
            self._items.put_nowait(item)
        return True

    async def get_batch(self, count: int) -> tuple[bool, list[Any]]:
        if count > self._items.qsize():
            return False, []
        return True, [self._items.get_nowait() for _ in range(count)]
