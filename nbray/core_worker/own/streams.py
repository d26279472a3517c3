"""Streaming generators at their owner: tasks whose values arrive one by one.

The worker sends each value as the generator yields it (`GeneratorItem`), and how many there were
with the task's reply. The owner makes an object of each; its number makes its id, so a retried
task, which yields again from the start, makes the same objects. An exception is the last item.
Whoever iterates peeks at the next object before it exists: the entry is completed by the item, or
by the end of the stream.

An item that is lost while the task runs, or is run again, waits for the task to come to it once
more. When the task ends first, the item is completed with what happened: a generator that is run
again may raise, or yield fewer.

With back-pressure, the worker may be that many items ahead of the reader; the owner reports how
many have been taken (`ItemsTaken`), and that all were when nobody reads any more.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from nbray.common.ids import NIL, return_id, return_index
from nbray.core_worker.own.table import ObjectEntry
from nbray.core_worker.values.serialization import serialize
from nbray.core_worker.values.shared_errors import share
from nbray.exceptions import ObjectReconstructionFailedError
from nbray.object_ref import ObjectRef
from nbray.wire import messages as m
from nbray.wire.connection import Connection
from nbray.wire.records import TaskSpec, Value

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker
    from nbray.core_worker.submit.calls import ActorCall
    from nbray.core_worker.tasks import PendingTask

STREAMING = -1
DYNAMIC = -2
_END = Value(b"")
NO_READER = 1 << 62


class Stream:
    """What the owner keeps of one generator task.

    Attributes:
        taken: items that the reader has.
        arrived: items that the worker has sent.
        length: how many there are, once the task has ended.
        abandoned: nobody takes items any more, but those that are held are still wanted.
        is_again: the task has ended before, and is run again for items that were lost.
        read: a reader has met the end.
    """

    def __init__(self, task_id: bytes) -> None:
        self.task_id = task_id
        self.taken = 0
        self.arrived = 0
        self.length: int | None = None
        self.worker: Connection | None = None
        self.backpressure = False
        self.abandoned = False
        self.is_again = False
        self.read = False

    def item_id(self, index: int) -> bytes:
        """The object id of an item (from 0); the task's own value 0 is its completion."""
        return return_id(self.task_id, index + 1)


class Streams:
    """The streams that this process reads."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._streams: dict[bytes, Stream] = {}
        self._taking = threading.RLock()  # a signal handler may read, too
        core.peers.handlers[m.GeneratorItem] = self._on_item

    def open(self, task_id: bytes, backpressure: bool) -> Stream:
        """A stream for a task that is about to be submitted; from any thread."""
        stream = self._streams[task_id] = Stream(task_id)
        stream.backpressure = backpressure
        return stream

    def reopen(self, task_id: bytes, backpressure: bool) -> None:
        """The task has ended before, and is run again for items that were lost."""
        stream = self.open(task_id, backpressure)
        stream.is_again = stream.abandoned = True

    def is_running(self, task_id: bytes) -> bool:
        """Whether that task yields items and has no reply yet."""
        return task_id in self._streams

    # --- under the baton --------------------

    def _on_item(self, connection: Connection, message: m.GeneratorItem) -> None:
        core = self._core
        stream = self._streams.get(message.task_id)
        object_id = return_id(message.task_id, message.index + 1)
        known = core.table.get(object_id)
        if stream is None or stream.abandoned:
            if stream is not None and stream.backpressure:
                connection.send(m.ItemsTaken(message.task_id, NO_READER))
            if known is not None:  # it is held, and made again
                self._complete(connection, object_id, known, message.value)
                return
            core.references.free(object_id, message.value)
            if message.value.contained:
                connection.send(m.HandoverDone(object_id))
            return
        stream.worker = connection
        stream.arrived = max(stream.arrived, message.index + 1)
        if message.index < stream.taken and stream.backpressure:
            connection.send(m.ItemsTaken(message.task_id, stream.taken))
        if known is None and message.index < stream.taken:
            # A retried task yields again what the reader has had and let go.
            core.references.free(object_id, message.value)
            if message.value.contained:
                connection.send(m.HandoverDone(object_id))
            return
        entry = core.table.ensure_owned(object_id)
        self._complete(connection, object_id, entry, message.value)

    def _complete(
        self, connection: Connection, object_id: bytes, entry: ObjectEntry, value: Value
    ) -> None:
        references = self._core.references
        if value.contained and entry.value is None:
            references.contains(entry, value)
            references.take_over(
                value.contained, lambda: connection.send(m.HandoverDone(object_id))
            )
        elif value.contained:
            connection.send(m.HandoverDone(object_id))
        references.table.complete(object_id, value)
        if entry.local <= 0:
            references.release(object_id)

    def finish(self, task: PendingTask | ActorCall, done: m.TaskDone) -> None:
        """The task has ended, after ``done.items`` items; an error is the next and the last."""
        core, spec = self._core, task.spec
        error = done.values[-1] if done.values[-1].is_error else None
        if error is not None and len(done.values) == 1:
            error = share(core, spec, 0, error)
        for object_id in self._end(spec, done.items, error):
            entry = core.table.get(object_id)
            if entry is None:
                continue
            if entry.value is None and return_index(object_id) > done.items:
                self._complete_lost(object_id, error or _ended_early(spec, object_id, done.items))
            elif entry.value is None or entry.value.stored is not None:
                core.lineage.keep(task, object_id, entry)
                if entry.value is None and not entry.freed:  # lost after this run had come by
                    core.lineage.recover_freed(object_id, entry)

    def failed(self, spec: TaskSpec, error: Value) -> None:
        """The task failed without a word of its worker: the error is its last item."""
        for object_id in self._end(spec, 0, error):
            self._complete_lost(object_id, error)

    def _end(self, spec: TaskSpec, items: int, error: Value | None) -> Iterable[bytes]:
        """End the stream for its reader; returns the items that there may be."""
        stream = self._streams.pop(spec.task_id, None)
        if stream is None:
            return ()
        if stream.is_again:
            return self._core.lineage.outputs(spec.task_id)
        table = self._core.table
        # An interrupt may fall between the sending of an item and its counting, and a task that
        # is run again after a crash may end earlier than before: all that came stay.
        known = length = max(stream.arrived, items)
        if error is not None and not stream.abandoned:
            entry = table.ensure_owned(stream.item_id(length))
            self._complete_with(stream.item_id(length), entry, error)
            length = stream.arrived = length + 1
        stream.length = length
        end = table.get(stream.item_id(length))
        if end is not None and end.value is None:
            table.complete(stream.item_id(length), _END)
        if spec.num_returns == DYNAMIC:
            self._abandon(stream)
        return map(stream.item_id, range(known))

    def _complete_lost(self, object_id: bytes, error: Value) -> None:
        """An item that the stream did not come to again gets no other value."""
        entry = self._core.table.get(object_id)
        if entry is not None and entry.value is None:
            self._complete_with(object_id, entry, error)

    def _complete_with(self, object_id: bytes, entry: ObjectEntry, error: Value) -> None:
        if error.contained:
            self._core.references.contains(entry, error)
            self._core.references.take_over(error.contained, lambda: None)
        self._core.table.complete(object_id, error)

    def _abandon(self, stream: Stream) -> None:
        """Nobody takes items any more: those that are here are let go."""
        stream.abandoned = True
        for index in range(stream.taken, stream.arrived + 1):
            self._core.released.append((stream.item_id(index), -1))
        if stream.backpressure and stream.worker is not None:
            stream.worker.send(m.ItemsTaken(stream.task_id, NO_READER))

    # --- the reader (any thread) --------------------

    def abandon(self, stream: Stream) -> None:
        """The reader has gone."""
        self._core.reactor.inbox.append(lambda: self._abandon(stream))

    def peek(self, stream: Stream) -> tuple[bytes, ObjectEntry]:
        """The next object, which may be the end."""
        object_id = stream.item_id(stream.taken)
        entry = self._core.table.ensure_owned(object_id)
        # Again after the entry exists: the end may have come in between.
        if stream.length is not None and stream.taken >= stream.length:
            self._core.table.complete(object_id, _END)
        return object_id, entry

    def take(
        self, stream: Stream, object_id: bytes, entry: ObjectEntry
    ) -> ObjectRef | Literal[False] | None:
        """The ref of the completed next object: None when it is the end, False if it has gone.

        Each item has one reader, in whatever threads and coroutines they are.
        """
        with self._taking:
            if object_id != stream.item_id(stream.taken):
                return False
            if entry.value is _END:
                if not stream.read:
                    self._core.released.append((object_id, -1))
                stream.read = True
                return None
            stream.taken += 1
        if stream.backpressure:
            taken = stream.taken

            def report() -> None:
                if stream.worker is not None:
                    stream.worker.send(m.ItemsTaken(stream.task_id, taken))

            self._core.reactor.post(report)
        return ObjectRef(object_id, self._core.address, self._core)


def _ended_early(spec: TaskSpec, object_id: bytes, items: int) -> Value:
    error = ObjectReconstructionFailedError(
        f"Failed to retrieve object {object_id.hex()}, all copies of which have been lost. The "
        f"object cannot be reconstructed because {spec.name}, which had yielded it, was run again "
        f"and ended after {items} items."
    )
    return Value(serialize(error).to_bytes(), None, True)


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

    def __init__(self, core: CoreWorker, stream: Stream, completion: ObjectRef) -> None:
        self._core = core
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
            if not self._core.values.wait_for([(object_id, entry)], 1, left):
                return ObjectRef(NIL, self._core.address, self._core)
            if ref := self._core.streams.take(self._stream, object_id, entry):
                return ref

    def __aiter__(self) -> ObjectRefGenerator:
        return self

    async def __anext__(self) -> ObjectRef:
        while True:
            object_id, entry = self._peek_or(StopAsyncIteration)
            if entry.value is None:
                ready: concurrent.futures.Future[None] = concurrent.futures.Future()
                self._tell_when_complete(entry, ready)
                await asyncio.wrap_future(ready)
            if ref := self._core.streams.take(self._stream, object_id, entry):
                return ref

    def _peek_or(self, end: type[Exception]) -> tuple[bytes, ObjectEntry]:
        if self._stream.read:
            raise end
        return self.peek()

    def _tell_when_complete(
        self, entry: ObjectEntry, ready: concurrent.futures.Future[None]
    ) -> None:
        self._core.reactor.post(lambda: entry.when_complete(partial(_set, ready)))

    def peek(self) -> tuple[bytes, ObjectEntry]:
        """The next object before it is taken; for `nbray.wait`."""
        return self._core.streams.peek(self._stream)

    def completed(self) -> ObjectRef:
        """A ref that is ready when the task has ended; it raises what the task raised."""
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

    def __del__(self) -> None:
        self._core.streams.abandon(self._stream)

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
