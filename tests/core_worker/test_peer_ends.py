"""The end of a process, as its survivors hear of it: in one order, whatever it was to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.simulation import Network, SimProcess

from nbray.common.ids import return_id
from nbray.wire.waiting import Waiter

ORDER = [
    "Borrowing.process_gone", "Locations.process_gone", "Leasing.worker_gone",
    "ActorCalls.worker_gone",
]  # fmt: skip


def follow(process: SimProcess) -> list[str]:
    """What the parts of a process are told from now on."""
    told: list[str] = []
    for part in (process.calls, process.leasing, process.locations, process.borrowing):
        for name in ("process_gone", "worker_gone"):
            if hasattr(part, name):
                setattr(part, name, _noting(told, f"{type(part).__name__}.{name}", part, name))
    return told


def _noting(told: list[str], what: str, part: Any, name: str) -> Callable[..., None]:
    original = getattr(part, name)

    def note(*args: Any) -> None:
        told.append(what)
        original(*args)

    return note


def test_all_parts_hear_of_a_death_once_and_in_order() -> None:
    network = Network(3)
    driver, worker, _other = network.processes
    driver.submit(worker, [], [])
    network.settle()
    told = follow(driver)
    worker.kill()
    network.settle()
    assert told == ORDER


def test_a_value_that_died_with_its_owner_is_an_error_before_tasks_are_looked_at() -> None:
    """The task waits for a value of a process that was to run another one: both end, once."""
    network = Network(3)
    driver, owner, worker = network.processes
    outer = driver.submit(owner, [], [])
    network.settle()
    inner = owner.put([], stored=False)
    owner.finish(owner.start(), [], [inner], stored=False)
    network.settle()
    value = driver.table[outer].value
    assert value is not None
    driver.refs += driver.open(outer, value)
    driver.submit(owner, [], [])  # it runs there when the owner dies
    network.settle()
    waiting = driver.submit(worker, [inner], [])
    owner.kill()
    network.settle()
    assert not driver.tasks or worker.queue
    task = worker.start()
    assert task.failed
    worker.finish(task, [], [], stored=False)
    network.settle()
    ended = driver.table[waiting].value
    assert ended is not None and ended.is_error


def test_a_push_that_was_decided_does_not_follow_the_end_of_its_worker() -> None:
    network = Network(2)
    driver, worker = network.processes
    driver.submit(worker, [], [])
    network.settle()
    worker.finish(worker.start(), [], [], stored=False)
    network.settle()
    object_id = driver.submit(worker, [], [])
    while driver.reactor.inbox:  # as far as the decision to push, over the lease that is there
        driver.reactor.inbox.popleft()()
    driver.leasing.dispatch()
    worker.kill()
    for end in network.news():
        end.deliver()
    network.settle()
    value = driver.table[return_id(object_id[:24], 0)].value
    assert value is not None and value.is_error
    assert len(network.ends) == 0, "nobody connects to a dead worker again"


def test_who_waits_for_a_value_gets_it_also_when_another_thread_asked_where_it_is() -> None:
    """The value was lost: a call found no copy of its argument, and another one waits for it."""
    network = Network(2)
    owner, borrower = network.processes
    object_id = owner.put([], stored=True)
    lost, owner.table[object_id].value = owner.table[object_id].value, None  # it is made again
    assert lost is not None
    entry = borrower.table.borrow(object_id, owner.me.address)
    found: list[Any] = []
    borrower.locations.find(object_id, owner.me.address, [], found.append)
    network.settle()
    waiter = Waiter()
    entry.add_waiter(waiter)
    borrower.fetch(object_id)
    network.settle()
    owner.table.complete(object_id, lost)
    network.settle()
    assert found == [entry.value]
    assert waiter.remaining == 0
