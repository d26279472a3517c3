"""Streaming generators in the worker that runs them; see `streams` for the other end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nbray.common.ids import return_id
from nbray.core_worker.values.serialization import Serialized
from nbray.exceptions import OwnerDiedError
from nbray.wire import messages as m
from nbray.wire.connection import Connection
from nbray.wire.records import TaskSpec
from nbray.wire.waiting import Waiter

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker


class StreamWriters:
    """The generators that run in this worker, in whatever threads."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._taken: dict[bytes, int] = {}
        self._waiting: dict[bytes, tuple[Connection, Waiter]] = {}
        self._lock = threading.Lock()
        core.peers.handlers[m.ItemsTaken] = self._on_taken
        core.peers.on_closed.append(self._on_closed)

    def _on_taken(self, _owner: Connection, message: m.ItemsTaken) -> None:
        task_id = message.task_id
        with self._lock:
            self._taken[task_id] = max(self._taken.get(task_id, 0), message.count)
            waiting = self._waiting.pop(task_id, None)
        if waiting is not None:
            waiting[1].complete_one()

    def _on_closed(self, connection: Connection) -> None:
        with self._lock:
            gone = [task_id for task_id, (c, _) in self._waiting.items() if c is connection]
            waiting = [self._waiting.pop(task_id) for task_id in gone]
        for _, waiter in waiting:
            waiter.complete_one()

    def is_behind(self, spec: TaskSpec, sent: int) -> bool:
        """Whether the reader has to take items before more are sent."""
        return bool(spec.backpressure) and (
            sent - self._taken.get(spec.task_id, 0) >= spec.backpressure
        )

    def wait_for_reader(self, owner: Connection, spec: TaskSpec, sent: int) -> None:
        """Wait while the reader is too far behind.

        Raises:
            OwnerDiedError: nobody reads any more.
        """
        while not owner.closed:
            with self._lock:
                if not self.is_behind(spec, sent):
                    return
                waiter = Waiter()
                self._waiting[spec.task_id] = (owner, waiter)
            self._core.values.block_on(waiter, None)
        raise OwnerDiedError(f"The process that reads the items of {spec.name} has ended.")

    def send(self, owner: Connection, spec: TaskSpec, index: int, packed: Serialized) -> None:
        """Store and send one item; from the thread that runs the task."""
        core = self._core
        object_id = return_id(spec.task_id, index + 1)
        contained = [ref.object_id for ref in packed.contained]
        value = core.stored.store(object_id, packed, owner.state)
        core.references.note(contained, 1)

        def pass_on() -> None:
            if contained:
                core.references.hand_over(owner, object_id, contained)
            owner.send(m.GeneratorItem(spec.task_id, index, value))

        core.reactor.inbox.append(pass_on)
        core.reactor.notify()
        core.reactor.try_turn()

    def end(self, spec: TaskSpec) -> None:
        """It yields no more."""
        with self._lock:
            self._taken.pop(spec.task_id, None)
