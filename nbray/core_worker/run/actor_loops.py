"""The event loops of an async actor: one for each concurrency group, in a thread of its own.

What blocks in one group stands in the way of no other, as in Ray. The loop of an actor without
groups drives the process's sockets while it waits (`loop_selector`).

A call is a task of its loop. Its first step is made as soon as it is begun, and not in the loop's
next turn: one that awaits nothing has replied then. Calls for which there is no room are no tasks
yet.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, copy_context
from typing import Any, Protocol

from nbray.core_worker.run.loop_selector import Drives, LoopSelector
from nbray.wire.connection import Connection
from nbray.wire.records import TaskSpec

_MOST_UNSENT = 64


class Runs(Protocol):
    """Who knows what the calls of an actor are (`run.actor_host`). In the loop's thread."""

    def run_async(
        self, loop: CallLoop, connection: Connection, spec: TaskSpec
    ) -> Coroutine[Any, Any, None]:
        """Run a call and reply; ``loop`` hears of both."""

    def is_cancelled(self, task_id: bytes) -> bool:
        """Whether a call was cancelled before it was here."""

    def refuse(self, connection: Connection, spec: TaskSpec) -> None:
        """Reply for a call that was cancelled before it began."""

    def leave(self, leaving: SystemExit) -> None:
        """A coroutine in the background ends the process."""


class CallLoop:
    """The loop of one group."""

    def __init__(self, group: str, size: int, runs: Runs, drives: Drives | None = None) -> None:
        """At most ``size`` calls run.

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
        self._room = size
        self._calls: dict[bytes, asyncio.Task[None]] = {}
        self._new: deque[tuple[Connection, TaskSpec]] = deque()
        self._steps: list[tuple[Context | None, Callable[..., Any], tuple[Any, ...]]] = []
        self._woken = False
        self._begins = False
        self._runs = runs
        name = f"nbray-actor-{group}" if group else "nbray-actor"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self._loop.run_forever()
            except SystemExit as leaving:  # asyncio lets it out of the loop, which can go on
                self._runs.leave(leaving)
            except KeyboardInterrupt:
                traceback.print_exc()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for it, from another thread."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        error = future.exception()
        if error is not None:  # `result` lets one pass whose class says that it is false
            raise error
        return future.result()

    def start(self, connection: Connection, spec: TaskSpec) -> None:
        """Have a call run when there is room. Any thread.

        Of those that come together, the first wakes the loop for all: a byte on its pipe, unless
        it is the loop's own thread that took them from a socket.
        """
        self._new.append((connection, spec))
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
        new = self._new
        self._begins = True
        try:
            while new and self._room > 0:
                connection, spec = new.popleft()
                if self._runs.is_cancelled(spec.task_id):
                    self._runs.refuse(connection, spec)
                else:
                    self._begin(connection, spec)
        finally:
            self._begins = False
            if new and self._room > 0:  # something was raised
                self._loop.call_soon(self._start_new, context=self._context)

    def _begin(self, connection: Connection, spec: TaskSpec) -> None:
        """Make a task of a call, and its first step, for which it asks its loop."""
        self._room -= 1
        loop, steps = self._loop, self._steps
        vars(loop)["call_soon"] = self._note_step
        try:
            task = loop.create_task(self._runs.run_async(self, connection, spec))
        finally:
            del vars(loop)["call_soon"]
        self._calls[spec.task_id] = task
        while steps:
            context, step, args = steps.pop(0)
            if context is None:
                step(*args)
            else:
                context.run(step, *args)

    def _note_step(
        self, step: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> None:
        self._steps.append((context, step, args))

    def ended(self, task_id: bytes) -> None:
        """A call runs no more, in the loop's thread: there is room for another."""
        self._calls.pop(task_id, None)
        self._room += 1
        if self._new and not self._begins:
            self._loop.call_soon(self._start_new, context=self._context)

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
            return
        for waiting in list(self._new):
            if waiting[1].task_id == task_id:
                self._new.remove(waiting)
                self._runs.refuse(*waiting)


def loops(sizes: Mapping[str, int], runs: Runs, drives: Drives) -> dict[str, CallLoop]:
    """A loop for each group, by its name; that of the default group is empty."""
    if len(sizes) == 1:
        ((group, size),) = sizes.items()
        return {group: CallLoop(group, size, runs, drives)}
    return {group: CallLoop(group, size, runs) for group, size in sizes.items()}
