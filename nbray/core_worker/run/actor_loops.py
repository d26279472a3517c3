"""The event loops of an async actor: one for each concurrency group, in a thread of its own.

What blocks in one group stands in the way of no other, as in Ray.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

_Call = Callable[[], Coroutine[Any, Any, None]]


class CallLoop:
    """The loop of one group.

    Attributes:
        limit: held by a call while it runs; at most ``size`` do.
    """

    def __init__(self, group: str, size: int, leave: Callable[[SystemExit], None]) -> None:
        """``leave`` hears of a coroutine in the background that ends the process."""
        self._loop = asyncio.new_event_loop()
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

        Of those that come together, the first wakes the loop for all: a byte on its pipe.
        """
        self._new.append((task_id, call, is_cancelled))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._start_new)

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

    def cancel(self, task_id: bytes) -> None:
        """Cancel a call, if it is one of this loop. Any thread."""
        self._loop.call_soon_threadsafe(self._cancel, task_id)

    def _cancel(self, task_id: bytes) -> None:
        call = self._calls.get(task_id)
        if call is not None:
            call.cancel()


def loops(sizes: Mapping[str, int], leave: Callable[[SystemExit], None]) -> dict[str, CallLoop]:
    """A loop for each group, by its name; that of the default group is empty."""
    return {group: CallLoop(group, size, leave) for group, size in sizes.items()}
