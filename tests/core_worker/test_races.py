"""Two threads at one place, in every order of their lines in which one is interrupted once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from support.interleaving import Interleaving, Preempt

from nbray.core_worker.own.streams import Stream
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.run import executor, stream_writer
from nbray.core_worker.run.executor import Executor
from nbray.core_worker.run.stream_writer import StreamWriters
from nbray.core_worker.values import readers as readers_module
from nbray.core_worker.values.readers import Readers
from nbray.exceptions import OwnerDiedError
from nbray.object_ref import UNKNOWN
from nbray.wire.records import TaskSpec, Value
from nbray.wire.waiting import Waiter

Actions = tuple[Callable[[], object], Callable[[], object]]
TASK = b"t" * 24


class ModelLock:
    """A lock for which a thread waits by giving its turn away."""

    def __init__(self, run: Interleaving) -> None:
        self._run = run
        self._taken = False

    def __enter__(self) -> None:
        self._run.pause(lambda: not self._taken, "a lock")
        self._taken = True

    def __exit__(self, *exc: object) -> None:
        self._taken = False


def in_every_order(
    module: Any, scene: Callable[[Interleaving], tuple[Actions, Callable[[], None]]]
) -> None:
    """Run the two actions of a scene, and what it checks behind them, in every order."""
    last, step = 1, -1
    while step < last:
        run = Interleaving({cast(str, module.__file__)}, Preempt({} if step < 0 else {step: 0}))
        actions, check = scene(run)
        for action in actions:
            run.add(action)
        run.run(lambda run=run: all(run._ended))  # type: ignore[misc]
        check()
        last, step = max(last, run.steps), step + 1


def test_tasks_that_are_given_back_are_not_lost_when_the_main_thread_takes_the_last() -> None:
    def scene(_run: Interleaving) -> tuple[Actions, Callable[[], None]]:
        back: list[bytes] = []
        taken: list[bytes] = []
        connection = Mock(send=lambda message: back.extend(message.task_ids))
        queue = deque((connection, SimpleNamespace(task_id=bytes([i]))) for i in range(3))
        worker = cast(Executor, SimpleNamespace(_queue=queue))

        def takes() -> None:
            if queue:
                taken.append(queue.popleft()[1].task_id)

        def check() -> None:
            assert sorted(back + taken) == [b"\0", b"\1", b"\2"]

        return (lambda: Executor._return_queue(worker), takes), check

    in_every_order(executor, scene)


def test_an_item_that_another_thread_takes_is_not_waited_for() -> None:
    def scene(run: Interleaving) -> tuple[Actions, Callable[[], None]]:
        table, stream = OwnershipTable(), Stream(TASK)
        home = cast(Any, SimpleNamespace(kin=UNKNOWN))
        readers = Readers(cast(Any, None), home, table, *[cast(Any, None)] * 3)
        readers._taking = cast(Any, ModelLock(run))
        first = stream.item_id(0)
        table.ensure_owned(first).value = Value(b"")
        seen: list[Any] = []

        def takes() -> None:
            object_id, entry = readers.peek(stream)
            assert readers.take(stream, object_id, entry)
            table.remove(object_id)  # its ref has died

        def check() -> None:
            ((object_id, entry),) = seen
            assert entry.value is not None or object_id == stream.item_id(stream.taken)

        return (lambda: seen.append(readers.peek(stream)), takes), check

    in_every_order(readers_module, scene)


def test_a_generator_hears_of_the_end_of_its_reader_whenever_that_comes() -> None:
    spec = TaskSpec(TASK, b"job0", b"f", "f", b"", backpressure=1)

    def scene(run: Interleaving) -> tuple[Actions, Callable[[], None]]:
        owner = cast(Any, SimpleNamespace(closed=False))

        def wait(waiter: Waiter, _timeout: float | None) -> None:
            run.pause(lambda: waiter.remaining <= 0, "news of its reader")

        blocking = cast(Any, SimpleNamespace(wait=wait))
        writers = StreamWriters(*[cast(Any, None)] * 4, blocking)
        writers._lock = cast(Any, ModelLock(run))

        def yields() -> None:
            with pytest.raises(OwnerDiedError):
                writers.wait_for_reader(owner, spec, 1)

        def ends() -> None:
            owner.closed = True  # as a connection does it
            writers.closed(owner)

        return (yields, ends), lambda: None

    in_every_order(stream_writer, scene)
