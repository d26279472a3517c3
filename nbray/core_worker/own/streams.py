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

from collections.abc import Callable, Iterable

from nbray.common.ids import return_id, return_index
from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.errors import error_value
from nbray.core_worker.own.freeing import Freeing
from nbray.core_worker.own.lineage import Lineage
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.ports import Mail, PendingWork
from nbray.exceptions import ObjectReconstructionFailedError
from nbray.wire import messages as m
from nbray.wire.records import DYNAMIC, TaskSpec, Value, thinned

Share = Callable[[TaskSpec, int, Value], Value]
END = Value(b"")
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
        worker: the process that yields them, once the first has come.
    """

    def __init__(self, task_id: bytes) -> None:
        self.task_id = task_id
        self.taken = 0
        self.arrived = 0
        self.length: int | None = None
        self.worker = b""
        self.backpressure = False
        self.abandoned = False
        self.is_again = False
        self.read = False

    def item_id(self, index: int) -> bytes:
        """The object id of an item (from 0); the task's own value 0 is its completion."""
        return return_id(self.task_id, index + 1)


class Streams:
    """The streams that this process reads."""

    def __init__(
        self, table: OwnershipTable, freeing: Freeing, borrowing: Borrowing, lineage: Lineage,
        mail: Mail, share: Share,
    ) -> None:  # fmt: skip
        """``share`` makes of a task's error, that of one object, one for others of its objects."""
        self._table = table
        self._freeing = freeing
        self._borrowing = borrowing
        self._lineage = lineage
        self._mail = mail
        self._share = share
        self._streams: dict[bytes, Stream] = {}

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

    def on_item(self, worker: bytes, message: m.GeneratorItem) -> None:
        """A worker yields an item."""
        stream = self._streams.get(message.task_id)
        object_id = return_id(message.task_id, message.index + 1)
        known = self._table.get(object_id)
        if stream is None or stream.abandoned:
            if stream is not None and stream.backpressure:
                self._mail.answer(worker, m.ItemsTaken(message.task_id, NO_READER))
            if known is not None:  # it is held, and made again
                self._complete(worker, object_id, known, message.value)
            else:
                self._refuse(worker, object_id, message.value)
            return
        stream.worker = worker
        stream.arrived = max(stream.arrived, message.index + 1)
        if message.index < stream.taken and stream.backpressure:
            self._mail.answer(worker, m.ItemsTaken(message.task_id, stream.taken))
        if known is None and message.index < stream.taken:
            # A retried task yields again what the reader has had and let go.
            self._refuse(worker, object_id, message.value)
            return
        entry = self._table.ensure_owned(object_id)
        self._complete(worker, object_id, entry, message.value)

    def _refuse(self, worker: bytes, object_id: bytes, value: Value) -> None:
        """Nobody wants the item."""
        self._freeing.free(object_id, value)
        if value.contained:
            self._mail.answer(worker, m.HandoverDone(object_id))

    def _complete(self, worker: bytes, object_id: bytes, entry: ObjectEntry, value: Value) -> None:
        if value.contained and entry.value is None:
            self._table.contains(entry, value)
            self._borrowing.take_over(
                value.contained, lambda: self._mail.answer(worker, m.HandoverDone(object_id))
            )
        elif value.contained:
            self._mail.answer(worker, m.HandoverDone(object_id))
        if value.stored is not None:
            value.stored = thinned(value.stored)
        self._table.complete(object_id, value)
        if entry.local <= 0:
            self._table.release(object_id)

    def finish(self, task: PendingWork, done: m.TaskDone) -> None:
        """The task has ended, after ``done.items`` items; an error is the next and the last."""
        spec = task.spec
        error = done.values[-1] if done.values[-1].is_error else None
        if error is not None and len(done.values) == 1:
            error = self._share(spec, 0, error)
        for object_id in self._end(spec, done.items, error):
            entry = self._table.get(object_id)
            if entry is None:
                continue
            if entry.value is None and return_index(object_id) > done.items:
                self._complete_lost(object_id, error or _ended_early(spec, object_id, done.items))
            elif entry.value is None or entry.value.stored is not None:
                self._lineage.keep(task, object_id, entry)
                if entry.value is None and not entry.is_freed():  # lost after this run had come by
                    self._lineage.recover_freed(object_id, entry)

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
            return self._lineage.outputs(spec.task_id)
        table = self._table
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
            table.complete(stream.item_id(length), END)
        if spec.num_returns == DYNAMIC:
            self.abandon(stream)
        return map(stream.item_id, range(known))

    def _complete_lost(self, object_id: bytes, error: Value) -> None:
        """An item that the stream did not come to again gets no other value."""
        entry = self._table.get(object_id)
        if entry is not None and entry.value is None:
            self._complete_with(object_id, entry, error)

    def _complete_with(self, object_id: bytes, entry: ObjectEntry, error: Value) -> None:
        if error.contained:
            self._table.contains(entry, error)
            self._borrowing.take_over(error.contained, lambda: None)
        self._table.complete(object_id, error)

    def abandon(self, stream: Stream) -> None:
        """Nobody takes items any more: those that are here are let go."""
        stream.abandoned = True
        for index in range(stream.taken, stream.arrived + 1):
            self._table.released.append((stream.item_id(index), -1))
        self.took(stream, NO_READER)

    def took(self, stream: Stream, count: int) -> None:
        """The reader has taken so many items: a worker that waits for it is to know."""
        if stream.backpressure and stream.worker:
            self._mail.answer(stream.worker, m.ItemsTaken(stream.task_id, count))


def _ended_early(spec: TaskSpec, object_id: bytes, items: int) -> Value:
    error = ObjectReconstructionFailedError(
        f"Failed to retrieve object {object_id.hex()}, all copies of which have been lost. The "
        f"object cannot be reconstructed because {spec.name}, which had yielded it, was run again "
        f"and ended after {items} items."
    )
    return error_value(error)
