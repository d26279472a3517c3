"""Tables that several threads share: whoever looks through one never meets a torn one."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from nbray.core_worker.own.table import OwnershipTable
from nbray.wire.records import Address, Value

LOOKS: dict[str, Callable[[OwnershipTable], object]] = {
    "requested_from": lambda table: table.requested_from(b"owner"),
    "unfinished_tasks": lambda table: table.unfinished_tasks(b"job1"),
    "refuse_waits": lambda table: table.refuse_waits(Value(b"")),
    "complete_all": lambda table: table.complete_all(Value(b"")),
    "owns_any": lambda table: table.owns_any(),
    "any_borrowed": lambda table: table.any_borrowed(),
    "in_arenas": lambda table: table.in_arenas(),
}


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns and garbage is collected as often as can be."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


@pytest.mark.parametrize("look", LOOKS)
def test_looking_through_all_objects_while_threads_make_and_finalizers_drop_some(
    look: str, hasty: None
) -> None:
    table = OwnershipTable()
    numbers = itertools.count()
    over = threading.Event()

    class Ref:
        """It goes by the collector, and its finalizer touches the table."""

        def __init__(self) -> None:
            self.itself = self
            self.id = next(numbers).to_bytes(28, "big")
            table.borrow(self.id, Address(b"owner", b"node", "", "", 0))

        def __del__(self) -> None:
            table.borrow(next(numbers).to_bytes(28, "big"), Address(b"owner", b"node", "", "", 0))

    def work() -> None:
        while not over.is_set() and next(numbers) < 20_000:
            Ref()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            LOOKS[look](table)
    finally:
        over.set()
        for thread in threads:
            thread.join()
