"""Generators of refs: how the items of a streaming task are read, in whatever threads.

What arrives, and what becomes of items that nobody reads, is `own.streams`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from nbray.common.ids import NIL
from nbray.common.interrupts import finalizer, interrupt_again
from nbray.object_ref import ObjectRef

if TYPE_CHECKING:
    import concurrent.futures

    from nbray.core_worker.own.streams import Stream
    from nbray.core_worker.own.table import ObjectEntry
    from nbray.core_worker.values.readers import Readers


class ObjectRefGenerator:
    """Iterates over the refs of a streaming task's values, as they are yielded.

    ``for ref in f.remote()`` or ``async for``. Each ref is ready when it comes. An exception of the
    task is raised by `get` of its last ref.

    Examples:
        >>> @nbray.remote
        ... def count(n):
        ...     yield from range(n)
        >>> [nbray.get(ref) for ref in count.remote(3)]
        [0, 1, 2]

        >>> stream = count.remote(1)
        >>> nbray.get(next(stream))
        0
        >>> next(stream, "no more"), stream.is_finished()
        ('no more', True)
    """

    def __init__(self, readers: Readers, stream: Stream, completion: ObjectRef) -> None:
        self._readers = readers
        self._stream = stream
        self._completion = completion

    def __iter__(self) -> ObjectRefGenerator:
        return self

    def __next__(self) -> ObjectRef:
        return self._next_sync()

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef:
        """The next ref; a ref that `is_nil` after ``timeout_s`` seconds without one.

        Raises:
            StopIteration: there are no more.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            object_id, entry = self._peek_or(StopIteration)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._readers.values.wait_for([object_id], [entry], 1, left):
                return self._readers.ref(NIL)
            if ref := self._readers.take(self._stream, object_id, entry):
                return ref

    def __aiter__(self) -> ObjectRefGenerator:
        return self

    async def __anext__(self) -> ObjectRef:
        while True:
            object_id, entry = self._peek_or(StopAsyncIteration)
            if entry.value is None:
                import asyncio  # a program that has coroutines has it
                import concurrent.futures

                ready: concurrent.futures.Future[None] = concurrent.futures.Future()
                self._tell_when_complete(entry, ready)
                await asyncio.wrap_future(ready)
            if ref := self._readers.take(self._stream, object_id, entry):
                return ref

    def _peek_or(self, end: type[Exception]) -> tuple[bytes, ObjectEntry]:
        if self._stream.read:
            raise end
        return self.peek()

    def _tell_when_complete(
        self, entry: ObjectEntry, ready: concurrent.futures.Future[None]
    ) -> None:
        self._readers.inbox.post(lambda: entry.when_complete(partial(_set, ready)))

    def peek(self) -> tuple[bytes, ObjectEntry]:
        """The next object before it is taken; for `nbray.wait`."""
        return self._readers.peek(self._stream)

    def completed(self) -> ObjectRef:
        """A ref that is ready when the task has ended, with None, as in Ray.

        What the generator raised is its last item. `get` of this ref raises when the task did not
        come to its end: its worker died, its arguments failed, it was cancelled, or its exception
        is larger than 100 KB.
        """
        return self._completion

    def next_ready(self) -> bool:
        """Whether the next ref, or the end, comes without waiting."""
        return not self._stream.read and self.peek()[1].value is not None

    def is_finished(self) -> bool:
        """Whether the task has ended and all its refs were taken."""
        stream = self._stream
        return stream.length is not None and stream.taken >= stream.length

    def task_id(self) -> Any:
        """The id of the task."""
        return self._completion.task_id()

    @finalizer
    def __del__(self) -> None:
        try:
            self._readers.abandon(self._stream)
        except KeyboardInterrupt:
            interrupt_again()

    def send(self, value: Any) -> None:
        """A task takes no values while it runs.

        Args:
            value: of no use.

        Raises:
            NotImplementedError: always, as in Ray.
        """
        raise NotImplementedError("`gen.send` is not supported.")

    def throw(self, value: Any) -> None:
        """A task is ended by `nbray.cancel`, with no other exception.

        Args:
            value: of no use.

        Raises:
            NotImplementedError: always, as in Ray.
        """
        raise NotImplementedError("`gen.throw` is not supported.")

    def close(self) -> None:
        """A task is ended by `nbray.cancel`.

        Raises:
            NotImplementedError: always, as in Ray.
        """
        raise NotImplementedError("`gen.close` is not supported.")

    async def asend(self, value: Any) -> None:
        """A task takes no values while it runs.

        Args:
            value: of no use.

        Raises:
            NotImplementedError: always, as in Ray.
        """
        raise NotImplementedError("`gen.asend` is not supported.")

    async def athrow(self, value: Any) -> None:
        """A task is ended by `nbray.cancel`, with no other exception.

        Args:
            value: of no use.

        Raises:
            NotImplementedError: always, as in Ray.
        """
        raise NotImplementedError("`gen.athrow` is not supported.")

    async def aclose(self) -> None:
        """A task is ended by `nbray.cancel`.

        Raises:
            NotImplementedError: always, as in Ray.
        """
        raise NotImplementedError("`gen.aclose` is not supported.")

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "An ObjectRefGenerator cannot be sent to another process: "
            "only the process that submitted the task may read it. Send its refs."
        )

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._completion.hex()})"


def _set(ready: concurrent.futures.Future[None]) -> None:
    if ready.set_running_or_notify_cancel():  # else its reader has given up
        ready.set_result(None)


class DynamicObjectRefGenerator:
    """The value of a task with ``num_returns="dynamic"``: the refs of what it yielded.

    Examples:
        >>> @nbray.remote(num_returns="dynamic")
        ... def parts(text):
        ...     yield from text.split()
        >>> refs = nbray.get(parts.remote("to be or"))
        >>> len(refs), nbray.get(list(refs))
        (3, ['to', 'be', 'or'])
    """

    def __init__(self, refs: Iterable[ObjectRef]) -> None:
        self._refs = list(refs)

    def __iter__(self) -> Any:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({len(self._refs)} refs)"
