"""Actors, on a real cluster."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

import nbray
from nbray.testing import wait_until
from nbray.util.state import list_actors


@nbray.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def increase(self) -> int:
        self.value += 1
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise ValueError("in the actor")


@nbray.remote
def increase(counter: nbray.ActorHandle) -> int:
    return nbray.get(counter.increase.remote())


def test_calls_run_in_order_and_keep_state(cluster: Path) -> None:
    counter = Counter.remote(10)
    refs = [counter.increase.remote() for _ in range(300)]
    assert nbray.get(refs) == list(range(11, 311))
    with pytest.raises(ValueError, match="in the actor"):
        nbray.get(counter.fail.remote())
    assert nbray.get(increase.remote(counter)) == 311


def test_names(cluster: Path) -> None:
    counter = Counter.options(name="c").remote()
    assert nbray.get(nbray.get_actor("c").increase.remote()) == 1
    with pytest.raises(ValueError, match="already taken"):
        Counter.options(name="c").remote()
    again = Counter.options(name="c", get_if_exists=True).remote()
    assert nbray.get(again.increase.remote()) == 2
    with pytest.raises(ValueError, match="Failed to look up"):
        nbray.get_actor("nobody")
    del counter


def test_twenty_actors(cluster: Path) -> None:
    counters = [Counter.remote(i) for i in range(20)]
    assert nbray.get([c.increase.remote() for c in counters]) == list(range(1, 21))


def test_a_killed_actor_is_dead_and_a_restartable_one_comes_back(cluster: Path) -> None:
    mortal = Counter.remote()
    nbray.get(mortal.increase.remote())
    nbray.kill(mortal)
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(mortal.increase.remote(), timeout=20)
    phoenix = Counter.options(max_restarts=1, max_task_retries=-1).remote()
    pid = nbray.get(phoenix.pid.remote())
    os.kill(pid, 9)
    assert nbray.get(phoenix.pid.remote(), timeout=20) != pid


def test_a_constructor_that_fails_is_the_cause_of_death(cluster: Path) -> None:
    with pytest.raises(nbray.exceptions.ActorDiedError, match="not a number"):
        nbray.get(Failing.remote().ping.remote(), timeout=20)


@nbray.remote
class Failing:
    def __init__(self) -> None:
        raise ValueError("not a number")

    def ping(self) -> None:
        raise AssertionError("never called")


def test_an_actor_ends_with_its_last_handle(cluster: Path) -> None:
    counter = Counter.remote()
    pid = nbray.get(counter.pid.remote())
    del counter
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the actor to end")


def test_async_and_threaded_actors_overlap(cluster: Path) -> None:
    @nbray.remote
    class Async:
        def __init__(self) -> None:
            self.there = 0

        async def meet(self) -> None:
            self.there += 1
            while self.there < 8:
                await asyncio.sleep(0.01)

    @nbray.remote(max_concurrency=8)
    class Threaded:
        def __init__(self) -> None:
            self.all = threading.Barrier(8)

        def meet(self) -> None:
            self.all.wait(60)

    for actor in (Async.remote(), Threaded.remote()):
        nbray.get([actor.meet.remote() for _ in range(8)], timeout=60)


def test_await_and_futures(cluster: Path) -> None:
    counter = Counter.remote()

    async def both() -> list[int]:
        return list(await asyncio.gather(counter.increase.remote(), counter.increase.remote()))

    assert asyncio.run(both()) == [1, 2]
    assert counter.increase.remote().future().result(timeout=20) == 3


def test_resources_are_taken_and_given_back(cluster: Path) -> None:
    holder = Counter.options(resources={"custom": 1}).remote()
    nbray.get(holder.increase.remote())
    wait_until(lambda: "custom" not in nbray.available_resources(), "the resource to be taken")
    nbray.kill(holder)
    wait_until(lambda: nbray.available_resources().get("custom") == 1, "the resource to come back")


def test_context(cluster: Path) -> None:
    task_id = nbray.get(nbray.remote(lambda: nbray.get_runtime_context().get_task_id()).remote())
    assert task_id is not None
    assert nbray.get_runtime_context().get_task_id() is None


def test_no_reply_of_an_async_actor_is_left_lying(cluster: Path) -> None:
    """A reply made on the actor's loop just before its socket thread sleeps must wake it."""

    @nbray.remote
    class Quick:
        async def value(self) -> bytes:
            return b"ok"

    actor = Quick.remote()
    for _ in range(10):
        assert nbray.get([actor.value.remote() for _ in range(500)], timeout=20) == [b"ok"] * 500
        for _ in range(100):
            assert nbray.get(actor.value.remote(), timeout=20) == b"ok"


def test_the_new_process_of_an_actor_answers_though_the_old_one_is_slow_to_go(
    cluster: Path,
) -> None:
    @nbray.remote(max_restarts=1, num_cpus=0)
    class Life:
        def was_restarted(self) -> bool:
            return nbray.get_runtime_context().was_current_actor_reconstructed

    for _ in range(8):
        life = Life.remote()
        assert not nbray.get(life.was_restarted.remote())
        nbray.kill(life, no_restart=False)

        def lives_again(life: nbray.ActorHandle = life) -> bool:
            try:
                return bool(nbray.get(life.was_restarted.remote(), timeout=30))
            except nbray.exceptions.ActorUnavailableError:
                return False

        wait_until(lives_again, "the actor lives again")


def test_an_actor_ends_with_the_actor_or_task_that_created_it_unless_it_is_detached(
    cluster: Path,
) -> None:
    @nbray.remote(num_cpus=0)
    class Child:
        def pid(self) -> int:
            return os.getpid()

    @nbray.remote(num_cpus=0)
    class Parent:
        def child(self, **options: str) -> nbray.ActorHandle:
            return Child.options(**options).remote()

    @nbray.remote(max_retries=0)
    def makes_and_crashes() -> None:
        child = Child.options(name="of a task").remote()
        nbray.get(child.pid.remote())
        os.kill(os.getpid(), 9)

    parent = Parent.remote()
    child = nbray.get(parent.child.remote())
    grandchild = nbray.get(child.__ray_call__.remote(lambda _self: Child.remote()))
    detached = nbray.get(parent.child.remote(name="stays", lifetime="detached"))
    nbray.get([child.pid.remote(), grandchild.pid.remote(), detached.pid.remote()])
    nbray.kill(parent)
    for orphan in (child, grandchild):
        with pytest.raises(nbray.exceptions.ActorDiedError, match="its owner has died"):
            while True:  # until its end is known
                nbray.get(orphan.pid.remote(), timeout=30)
    assert nbray.get(detached.pid.remote())
    with pytest.raises(nbray.exceptions.WorkerCrashedError):
        nbray.get(makes_and_crashes.remote())
    wait_until(
        lambda: [row.name for row in list_actors() if row.state != "DEAD"] == ["stays"],
        "only what is detached lives",
    )
    nbray.kill(detached)
