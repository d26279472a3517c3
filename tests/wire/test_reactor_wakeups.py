"""The reactor's baton in every order of two threads' lines: no wake-up is lost, no work left.

The real `Reactor` runs here; only what blocks in the kernel is a model: locks, the poll, the
eventfd, sleeps. A thread that polls or waits goes on when something woke it, never by a clock, so
whoever was not woken stays: `Stuck`.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interleaving import Choose, Interleaving, Preempt, Stuck

from nbray.wire import reactor as reactor_module
from nbray.wire import waiting as waiting_module
from nbray.wire.reactor import Reactor
from nbray.wire.waiting import Waiter

FILES = {reactor_module.__file__, waiting_module.__file__}


class ModelLock:
    """As `_thread.allocate_lock`'s, but a wait for it is a condition."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._taken = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking and timeout != 0:
            # Each wait is as if it had no limit: what a time limit would mend is a fault here.
            self._world.pause(lambda: not self._taken, "a lock")
        if self._taken:
            return False
        self._taken = True
        return True

    def release(self) -> None:
        if not self._taken:
            raise RuntimeError("release unlocked lock")
        self._taken = False

    def locked(self) -> bool:
        return self._taken


class ModelEvent:
    def __init__(self, world: World) -> None:
        self._world = world
        self._set = False

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        self._world.pause(lambda: self._set, "the end of the foreground")
        return True


class World:
    """A reactor whose kernel is a model, its background thread, and those that the test adds."""

    def __init__(self, choose: Choose, patch: pytest.MonkeyPatch) -> None:
        self.run_ = Interleaving(FILES, choose)
        self.pause = self.run_.pause
        self.woken = 0
        self.arrived: list[Callable[[], None]] = []
        patch.setattr(reactor_module, "allocate_lock", lambda: ModelLock(self))
        patch.setattr(waiting_module, "allocate_lock", lambda: ModelLock(self))
        patch.setattr(reactor_module.threading, "Event", lambda: ModelEvent(self))
        self.reactor = Reactor()
        patch.setattr(self.reactor, "wake", self._wake)
        patch.setattr(self.reactor, "main_thread", None)  # no signals here
        patch.setattr(self.reactor, "poller", self)
        self.reactor._spinner = self  # type: ignore[assignment]
        self.reactor._handlers[-1] = self._drain
        self.reactor._handlers[-2] = self._receive
        self.reactor._nap = self  # type: ignore[assignment]
        self.run_.add(self.reactor._background)

    # the kernel

    def _wake(self) -> None:
        self.woken += 1

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        if timeout > 0:  # it was nudged: it looks again after a moment, whatever comes
            self.pause(None, "a short poll", naps=True)
        elif timeout < 0:
            self.pause(lambda: bool(self.woken or self.arrived), "a poll")
        return [(-1, 1)] * bool(self.woken) + [(-2, 1)] * bool(self.arrived)

    def _drain(self, _events: int) -> None:
        self.woken = 0

    def _receive(self, _events: int) -> None:
        self.arrived.pop(0)()

    def sleep(self, _seconds: float) -> None:
        self.pause(None, "a nap", naps=True)

    def put_off(self, _seconds: float) -> None:
        """A nap ends at any moment in any case."""


def run_one(choose: Choose, scene: Callable[[World], Callable[[], bool]]) -> int:
    """Run a scene in one order; how many steps it took."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(choose, patch)
        world.run_.run(scene(world))
        patch.undo()
        return world.run_.steps


# --- what threads do with a reactor --------------------


def one_waits_one_posts(world: World) -> Callable[[], bool]:
    """What another thread posts completes a wait."""
    waiter = Waiter()
    done: list[bool] = []
    world.run_.add(lambda: done.append(world.reactor.wait(waiter)))
    world.run_.add(lambda: world.reactor.post(waiter.complete_one))
    return lambda: done == [True]


def two_wait_for_messages(world: World) -> Callable[[], bool]:
    """Each waits for an answer of its own, the first that waits for the last one."""
    waiters = [Waiter(), Waiter()]
    done: list[bool] = []
    for waiter in waiters:
        world.run_.add(lambda waiter=waiter: done.append(world.reactor.wait(waiter)))
    world.arrived += [waiters[1].complete_one, waiters[0].complete_one]
    return lambda: done == [True, True]


def one_posts_and_nobody_waits(world: World) -> Callable[[], bool]:
    """Posted work is done by the background thread alone."""
    done: list[int] = []
    world.run_.add(lambda: world.reactor.post(lambda: done.append(1)))
    return lambda: done == [1]


def one_submits_and_one_waits_for_it(world: World) -> Callable[[], bool]:
    """What stands in an inbox of the core's own is taken by whoever drives."""
    waiter = Waiter()
    submitted: list[int] = []
    done: list[bool] = []

    def accept() -> None:
        while submitted:
            submitted.pop()
            waiter.complete_one()

    def submit() -> None:
        submitted.append(1)
        world.reactor.notify()

    world.reactor.on_turn = accept
    world.run_.add(lambda: done.append(world.reactor.wait(waiter)))
    world.run_.add(submit)
    return lambda: done == [True]


def a_nudge_is_seen(world: World) -> Callable[[], bool]:
    """What may wait for a moment is looked at, also when everybody sleeps already."""
    dropped: list[int] = []
    seen: list[int] = []

    def look() -> None:
        while dropped:
            seen.append(dropped.pop())

    def drop() -> None:
        dropped.append(1)
        world.reactor.nudge()

    world.reactor.on_turn = look
    world.run_.add(drop)
    return lambda: seen == [1]


def one_waits_and_it_is_stopped(world: World) -> Callable[[], bool]:
    """Whoever waits at the end is refused, and does not stay."""
    waiter = Waiter()
    refused: list[bool] = []

    def wait() -> None:
        try:
            world.reactor.wait(waiter)
        except reactor_module.NbraySystemError:
            refused.append(True)

    def stop() -> None:
        world.reactor.stopped = True
        world.reactor._foreground_left.set()
        world.reactor.wake()
        for each in [*world.reactor._waiting, *world.reactor._sleeping]:
            each.wake()

    world.run_.add(wait)
    world.run_.add(stop)
    return lambda: refused == [True]


SCENES = [
    one_submits_and_one_waits_for_it, one_waits_one_posts, two_wait_for_messages,
    one_posts_and_nobody_waits, a_nudge_is_seen,
    one_waits_and_it_is_stopped,
]  # fmt: skip


def all_orders(
    scene: Callable[[World], Callable[[], bool]], preemptions: int, most: int | None = None
) -> int:
    """Every order with so many preemptions, or ``most`` of them; how many orders there were."""
    plain = Preempt({})
    steps = run_one(plain, scene)
    orders = [
        dict(zip(at, which, strict=True))
        for at in itertools.combinations(range(steps), preemptions)
        for which in itertools.product((0, 1), repeat=preemptions)
    ]
    if most is not None and len(orders) > most:
        orders = random.Random(0).sample(orders, most)
    for order in orders:
        run_one(Preempt(order), scene)
    return 1 + len(orders)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_no_wake_up_is_lost_wherever_a_thread_loses_its_turn(scene: Any) -> None:
    assert all_orders(scene, 1) > 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_no_wake_up_is_lost_wherever_threads_lose_their_turn_twice(scene: Any) -> None:
    """All of them take an hour; NBRAY_REACTOR_ORDERS says how many of each scene are tried."""
    assert all_orders(scene, 2, int(os.environ.get("NBRAY_REACTOR_ORDERS", "2000"))) > 100


@settings(max_examples=60)
@given(
    st.sampled_from(SCENES),
    st.dictionaries(st.integers(0, 150), st.integers(0, 2), max_size=8),
)
def test_no_wake_up_is_lost_in_any_order(scene: Any, at: dict[int, int]) -> None:
    run_one(Preempt(at), scene)


def test_the_model_finds_a_lost_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever posts and tells nobody finds a reader that sleeps already."""
    monkeypatch.setattr(Reactor, "notify", lambda self: None)
    with pytest.raises(Stuck):
        all_orders(one_waits_one_posts, 1)


def test_the_model_finds_what_comes_between_a_look_and_the_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To wake those only that poll already misses the one that has just looked."""

    def wake_pollers(self: Reactor) -> None:
        if self._polling:
            self.wake()

    monkeypatch.setattr(Reactor, "notify", wake_pollers)
    with pytest.raises(Stuck):
        all_orders(one_submits_and_one_waits_for_it, 1)
