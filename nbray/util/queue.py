"""A queue that tasks, actors and drivers share; Ray's `Queue`.

An item goes to one reader, and comes back to the front when that one does not want it any more,
since it was interrupted, cancelled or out of time (`asyncio.wait_for`) while it waited. A reader
whose process has ended gets nothing: only what is on its way when a process is killed is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections import deque
from collections.abc import Iterable
from typing import Any

from nbray.calls.actor import ActorClass
from nbray.calls.api import cancel, get, kill, wait
from nbray.calls.handles import ActorHandle
from nbray.common.timeouts import as_timeout
from nbray.core_worker.run.caller_ends import CallerEnds
from nbray.driver.driver import current_core
from nbray.exceptions import ActorDiedError, NbrayError
from nbray.object_ref import ObjectRef

# Readers and writers wait in the actor: whoever ends their waits must find room beside them.
_MOST_CALLS = 1_000_000


class Empty(queue.Empty):
    """There is no item, or none came in time.

    Examples:
        >>> from nbray.util.queue import Empty, Queue
        >>> try:
        ...     Queue().get(timeout=0.1)
        ... except Empty:
        ...     print("nothing came")
        nothing came
    """


class Full(queue.Full):
    """There is no room, or none came in time.

    Examples:
        >>> from nbray.util.queue import Full, Queue
        >>> queue = Queue(maxsize=1)
        >>> queue.put("first")
        >>> try:
        ...     queue.put_nowait("second")
        ... except Full:
        ...     print("no room")
        no room
    """


class Queue:
    """First in, first out, in an actor; it can be passed to tasks.

    Args:
        maxsize: most items; 0 or less: any number.
        actor_options: options of the actor.

    Examples:
        >>> from nbray.util.queue import Queue
        >>> queue = Queue()
        >>> @nbray.remote
        ... def work(out):
        ...     for step in range(3):
        ...         out.put(step)
        >>> ref = work.remote(queue)
        >>> [queue.get(timeout=30) for _ in range(3)]
        [0, 1, 2]
        >>> queue.shutdown()
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        options = {"max_concurrency": _MOST_CALLS, **(actor_options or {})}
        # None after `shutdown`, as Ray has it.
        self.actor: ActorHandle | None = ActorClass(_QueueActor, options).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    def _methods(self) -> ActorHandle:
        if self.actor is None:
            raise ActorDiedError(error_msg="The queue was shut down.")
        return self.actor

    def size(self) -> int:
        """How many items there are."""
        return int(get(self._methods().qsize.remote()))

    def qsize(self) -> int:
        """How many items there are."""
        return self.size()

    def empty(self) -> bool:
        """Whether there is no item."""
        return bool(get(self._methods().empty.remote()))

    def full(self) -> bool:
        """Whether there is no room."""
        return bool(get(self._methods().full.remote()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits for room for at most ``timeout`` seconds if ``block``.

        Args:
            item: what to add.
            block: False does not wait.
            timeout: seconds to wait; None: any time.

        Raises:
            Full: there was no room. ValueError: ``timeout`` is negative.
        """
        if not self._wait_for(self._methods().put.remote(item, _seconds(block, timeout))):
            raise Full

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`put` for coroutines.

        Args:
            item: what to add.
            block: False does not wait.
            timeout: seconds to wait; None: any time.

        Raises:
            Full: there was no room. ValueError: ``timeout`` is negative.
        """
        ref = self._methods().put.remote(item, _seconds(block, timeout))
        if not await self._wait_async(ref):
            raise Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item; waits for one for at most ``timeout`` seconds if ``block``.

        Args:
            block: False does not wait.
            timeout: seconds to wait; None: any time.

        Returns:
            The item.

        Raises:
            Empty: there was none. ValueError: ``timeout`` is negative.
        """
        found = self._wait_for(self._take(block, timeout), takes=True)
        if not found:
            raise Empty
        return found[0]

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """`get` for coroutines.

        Args:
            block: False does not wait.
            timeout: seconds to wait; None: any time.

        Returns:
            The item.

        Raises:
            Empty: there was none. ValueError: ``timeout`` is negative.
        """
        found = await self._wait_async(self._take(block, timeout), takes=True)
        if not found:
            raise Empty
        return found[0]

    def _take(self, block: bool, timeout: float | None) -> ObjectRef:
        seconds = _seconds(block, timeout)
        ref: ObjectRef = self._methods().get.remote(seconds, current_core().worker_id)
        return ref

    def _wait_for(self, ref: ObjectRef, takes: bool = False) -> Any:
        try:
            return get(ref)
        except NbrayError:
            raise  # of the actor, or of this process's end
        except BaseException:
            self._withdraw(ref, takes)
            raise

    async def _wait_async(self, ref: ObjectRef, takes: bool = False) -> Any:
        try:
            return await ref
        except NbrayError:
            raise
        except BaseException:
            self._withdraw(ref, takes)
            raise

    def _withdraw(self, ref: ObjectRef, takes: bool) -> None:
        """Nobody waits for that call any more; what it has taken, or is taking, goes back."""
        cancel(ref)
        if takes and self.actor is not None:
            self.actor.give_back.remote(ref)

    def put_nowait(self, item: Any) -> None:
        """`put` without waiting.

        Args:
            item: what to add.

        Raises:
            Full: there is no room.
        """
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """`get` without waiting."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items, or none.

        Args:
            items: what to add.

        Raises:
            Full: there is no room for all. TypeError: ``items`` cannot be iterated over.
        """
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        batch = list(items)
        size = self._wait_for(self._methods().put_batch.remote(batch))
        if size is not None:
            raise Full(
                f"Cannot add {len(batch)} items to queue of size {size} and maxsize {self.maxsize}."
            )

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take that many items, or none.

        Args:
            num_items: how many.

        Returns:
            The items, the oldest first.

        Raises:
            Empty: there are fewer. TypeError, ValueError: ``num_items`` is no count.
        """
        if not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        found = self._wait_for(self._methods().get_batch.remote(num_items), takes=True)
        if isinstance(found, int):
            raise Empty(f"Cannot get {num_items} items from queue of size {found}.")
        return list(found)

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the actor: after its running calls, for ``grace_period_s``, or at once.

        The queue, and its copies elsewhere, cannot be used after that.

        Args:
            force: end it at once.
            grace_period_s: seconds that its running calls have otherwise.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)
        kill(actor, no_restart=True)


def _seconds(block: bool, timeout: float | None) -> float | None:
    if not block:
        return 0.0
    timeout = as_timeout(timeout)
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


class _QueueActor:
    """The items, and who waits for them; outcomes are values, not exceptions.

    All of it runs in one event loop, and nothing is half done while one of its methods waits.
    """

    def __init__(self, maxsize: int) -> None:
        self._most = maxsize if maxsize > 0 else float("inf")
        self._items: deque[Any] = deque()
        self._readers: dict[int, asyncio.Future[tuple[Any]]] = {}
        self._writers: dict[int, tuple[asyncio.Future[None], Any]] = {}
        self._numbers = itertools.count()
        core = current_core()
        self._ends = CallerEnds(core.peers.find, core.edge.on_closed)

    async def qsize(self) -> int:
        return len(self._items)

    async def empty(self) -> bool:
        return not self._items

    async def full(self) -> bool:
        return len(self._items) >= self._most

    async def put(self, item: Any, timeout: float | None = None) -> bool:
        if len(self._items) < self._most:
            self._items.append(item)
            self._settle()
            return True
        if timeout == 0:
            return False
        admitted = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        self._writers[number] = (admitted, item)
        try:
            await asyncio.wait([admitted], timeout=timeout)
        finally:
            self._writers.pop(number, None)
        return admitted.done()

    async def get(
        self, timeout: float | None = None, caller: bytes = b""
    ) -> tuple[()] | tuple[Any]:
        """The item; nothing when there was none in time, or when the caller has ended."""
        if self._items:
            item = self._items.popleft()
            self._settle()
            return (item,)
        if timeout == 0:
            return ()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[tuple[Any]] = loop.create_future()
        number = next(self._numbers)
        self._readers[number] = found

        def ended() -> None:
            loop.call_soon_threadsafe(found.cancel)

        self._ends.watch(caller, number, ended)
        try:
            await asyncio.wait([found], timeout=timeout)
        except asyncio.CancelledError:
            if found.done() and not found.cancelled():
                await self.give_back(found.result())
            raise
        finally:
            self._ends.forget(caller, number)
            self._readers.pop(number, None)
        return found.result() if found.done() and not found.cancelled() else ()

    async def put_batch(self, items: list[Any]) -> int | None:
        """None, or how many items there are already."""
        if len(self._items) + len(items) > self._most:
            return len(self._items)
        self._items.extend(items)
        self._settle()
        return None

    async def get_batch(self, count: int) -> list[Any] | int:
        """The items, or how many there are only."""
        if count > len(self._items):
            return len(self._items)
        taken = [self._items.popleft() for _ in range(count)]
        self._settle()
        return taken

    async def give_back(self, taken: Iterable[Any] | int) -> None:
        """What somebody took and does not want is the first again."""
        if not isinstance(taken, int):
            self._items.extendleft(reversed(list(taken)))
            self._settle()

    def _settle(self) -> None:
        """Give items to readers, and room to writers, in the order of their coming."""
        while True:
            while self._writers and len(self._items) < self._most:
                admitted, item = self._writers.pop(next(iter(self._writers)))
                admitted.set_result(None)
                self._items.append(item)
            if not self._readers or not self._items:
                return
            found = self._readers.pop(next(iter(self._readers)))
            if not found.done():  # its caller may have ended just now
                found.set_result((self._items.popleft(),))
