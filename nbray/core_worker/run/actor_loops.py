"""The event loops of an async actor: one for each concurrency group, in a thread of its own.

What blocks in one group stands in the way of no other, as in Ray. The loop of an actor without
groups drives the process's sockets while it waits (`loop_selector`).
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from typing import Any

from nbray.core_worker.run.loop_selector import Drives, LoopSelector

_MOST_UNSENT = 64
_Call = Callable[[], Coroutine[Any, Any, None]]


class CallLoop:
    """The loop of one group.

    Attributes:
        limit: held by a call while it runs; at most ``size`` do.
    """

    def __init__(
        self, group: str, size: int, leave: Callable[[SystemExit], None],
        drives: Drives | None = None,
    ) -> None:  # fmt: skip
        """``leave`` hears of a coroutine in the background that ends the process.

        ``drives``: what the loop's thread is to drive, unless the program has loops of its own.
        """
        self._loop = asyncio.new_event_loop()
        self._selector: LoopSelector | None = None
        self._context = copy_context()
        self._unsent = 0
        if drives is not None and type(self._loop) is asyncio.SelectorEventLoop:
            self._loop.close()
            self._selector = LoopSelector(drives)
            self._loop = asyncio.SelectorEventLoop(self._selector)
        self._drives = drives
        self.limit = asyncio.Semaphore(size)
        self._calls: dict[bytes, asyncio.Task[None]] = {}
        self._new: deque[tuple[bytes, _Call, Callable[[], bool]]] = deque()
        self._woken = False
        self._leave = leave
        name = f"nbray-actor-{group}" if group else "nbray-actor"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self._loop.run_forever()
            except SystemExit as leaving:  # asyncio lets it out of the loop, which can go on
                self._leave(leaving)
            except KeyboardInterrupt:
                traceback.print_exc()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for it, from another thread."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        error = future.exception()
        if error is not None:  # `result` lets one pass whose class says that it is false
            raise error
        return future.result()

    def start(self, task_id: bytes, call: _Call, is_cancelled: Callable[[], bool]) -> None:
        """Have a call run when there is room; ``is_cancelled``: before it was here. Any thread.

        Of those that come together, the first wakes the loop for all: a byte on its pipe, unless
        it is the loop's own thread that took them from a socket.
        """
        self._new.append((task_id, call, is_cancelled))
        if self._woken:
            return
        self._woken = True
        selector = self._selector
        if selector is not None and selector.is_of_this_thread():
            self._loop.call_soon(self._start_new, context=self._context)
            selector.look()
        else:
            self._loop.call_soon_threadsafe(self._start_new, context=self._context)

    def _start_new(self) -> None:
        self._woken = False  # before the look, so that whoever comes behind it wakes again
        new, create_task = self._new, self._loop.create_task
        while new:
            task_id, call, is_cancelled = new.popleft()
            self._calls[task_id] = create_task(self._run(task_id, call))
            if is_cancelled():
                self._cancel(task_id)

    async def _run(self, task_id: bytes, call: _Call) -> None:
        try:
            await call()
        finally:
            self._calls.pop(task_id, None)

    def drives(self) -> bool:
        """Whether its thread drives the process's sockets while it waits."""
        return self._selector is not None

    def replied(self) -> None:
        """A reply is queued, in the loop's thread: those of many calls leave before the last."""
        self._unsent += 1
        if self._unsent >= _MOST_UNSENT and self._drives is not None:
            self._unsent = 0
            self._drives.try_turn()

    def cancel(self, task_id: bytes) -> None:
        """Cancel a call, if it is one of this loop. Any thread."""
        self._loop.call_soon_threadsafe(self._cancel, task_id)

    def _cancel(self, task_id: bytes) -> None:
        call = self._calls.get(task_id)
        if call is not None:
            call.cancel()


def loops(
    sizes: Mapping[str, int], leave: Callable[[SystemExit], None], drives: Drives
) -> dict[str, CallLoop]:
    """A loop for each group, by its name; that of the default group is empty."""
    if len(sizes) == 1:
        ((group, size),) = sizes.items()
        return {group: CallLoop(group, size, leave, drives)}
    return {group: CallLoop(group, size, leave) for group, size in sizes.items()}
