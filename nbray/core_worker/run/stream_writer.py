"""Streaming generators in the worker that runs them; see `streams` for the other end."""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

from nbray.common.ids import return_id
from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.values.blocking import Blocking
from nbray.core_worker.values.serialization import Serialized
from nbray.core_worker.values.stored import StoredValues
from nbray.exceptions import OwnerDiedError
from nbray.wire import messages as m
from nbray.wire.connection import Connection
from nbray.wire.reactor import Reactor
from nbray.wire.records import TaskSpec, ids_in
from nbray.wire.waiting import Waiter


class _Waits(Protocol):
    """Whoever waits for a reader, a thread or a coroutine."""

    def complete_one(self) -> None:
        """There is news, or nobody reads any more. Any thread."""


class _Coroutine:
    """A coroutine that waits: no thread of its loop's pool does, which has few."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.woken = self._loop.create_future()

    def complete_one(self) -> None:
        """Let it look again. Any thread."""
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class StreamWriters:
    """The generators that run in this worker, in whatever threads."""

    def __init__(
        self, reactor: Reactor, table: OwnershipTable, borrowing: Borrowing, stored: StoredValues,
        blocking: Blocking,
    ) -> None:  # fmt: skip
        self._reactor = reactor
        self._table = table
        self._borrowing = borrowing
        self._stored = stored
        self._blocking = blocking
        self._taken: dict[bytes, int] = {}
        self._waiting: dict[bytes, tuple[Connection, _Waits]] = {}
        self._lock = threading.RLock()  # a finalizer in a thread that holds it may get the baton

    def on_taken(self, message: m.ItemsTaken) -> None:
        """The reader of a stream has taken items."""
        task_id = message.task_id
        with self._lock:
            self._taken[task_id] = max(self._taken.get(task_id, 0), message.count)
            waiting = self._waiting.pop(task_id, None)
        if waiting is not None:
            waiting[1].complete_one()

    def closed(self, connection: Connection) -> None:
        """A connection has ended: nobody reads over it."""
        with self._lock:
            gone = [task_id for task_id, (c, _) in self._waiting.items() if c is connection]
            waiting = [self._waiting.pop(task_id) for task_id in gone]
        for _, waiter in waiting:
            waiter.complete_one()

    def _is_behind(self, spec: TaskSpec, sent: int) -> bool:
        return bool(spec.backpressure) and (
            sent - self._taken.get(spec.task_id, 0) >= spec.backpressure
        )

    def wait_for_reader(self, owner: Connection, spec: TaskSpec, sent: int) -> None:
        """Wait while the reader is too far behind.

        Raises:
            OwnerDiedError: nobody reads any more.
        """
        waiter = Waiter()
        while self._has_to_wait(owner, spec, sent, waiter):
            self._blocking.wait(waiter, None)
            waiter = Waiter()

    async def wait_in_loop(self, owner: Connection, spec: TaskSpec, sent: int) -> None:
        """The same in a coroutine."""
        while owner.closed or self._is_behind(spec, sent):  # most need not wait
            if self._has_to_wait(owner, spec, sent, waiter := _Coroutine()):
                await waiter.woken

    def _has_to_wait(self, owner: Connection, spec: TaskSpec, sent: int, waiter: _Waits) -> bool:
        """Whether the reader is too far behind; ``waiter`` is told of news then."""
        if not (owner.closed or self._is_behind(spec, sent)):
            return False
        with self._lock:  # an owner that is lost behind the look is told of to whoever waits
            self._waiting[spec.task_id] = (owner, waiter)
            if not owner.closed and self._is_behind(spec, sent):
                return True
            self._waiting.pop(spec.task_id, None)
        if owner.closed:
            raise OwnerDiedError(f"The process that reads the items of {spec.name} has ended.")
        return False

    def send(self, owner: Connection, spec: TaskSpec, index: int, packed: Serialized) -> None:
        """Store and send one item; from the thread that runs the task."""
        object_id = return_id(spec.task_id, index + 1)
        contained = ids_in(packed.contained)
        value = self._stored.store(object_id, packed, owner.state, first=spec.attempt == 0)
        self._table.note(contained, 1)

        def pass_on() -> None:
            if contained and owner.closed:
                self._table.note(contained, -1)
            elif contained:
                self._borrowing.hand_over(owner.state.worker_id, object_id, contained)
            owner.send(m.GeneratorItem(spec.task_id, index, value))

        self._reactor.inbox.append(pass_on)
        self._reactor.notify()
        self._reactor.try_turn()

    def end(self, spec: TaskSpec) -> None:
        """It yields no more."""
        with self._lock:
            self._taken.pop(spec.task_id, None)
            self._waiting.pop(spec.task_id, None)
