"""Options of tasks and of actor methods, as users give them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

import nbray
from nbray.actor import exit_actor
from nbray.testing import Gate, wait_until


def test_exceptions_of_the_named_classes_are_retried(module_cluster: Path, tmp_path: Path) -> None:
    def attempt(path: str, error: Exception, most: int) -> int:
        with open(path, "a") as file:
            file.write(".")
        if os.path.getsize(path) < most:
            raise error
        return os.path.getsize(path)

    listed = nbray.remote(retry_exceptions=[KeyError, OSError], max_retries=3)(attempt)
    assert nbray.get(listed.remote(str(tmp_path / "a"), OSError("x"), 3), timeout=30) == 3
    with pytest.raises(ValueError):
        nbray.get(listed.remote(str(tmp_path / "b"), ValueError("x"), 3), timeout=30)
    with pytest.raises(ValueError, match="retry_exceptions must be"):
        nbray.remote(retry_exceptions=["KeyError"])(attempt)


def test_a_worker_leaves_after_max_calls(module_cluster: Path) -> None:
    @nbray.remote(max_calls=2)
    def pid() -> int:
        return os.getpid()

    pids = nbray.get([pid.remote() for _ in range(12)], timeout=60)
    assert max(pids.count(p) for p in pids) == 2
    assert len(set(pids)) >= 6


def test_cancelling_a_task_stops_its_children(module_cluster: Path) -> None:
    @nbray.remote(num_cpus=0)
    def leaf(folder: str) -> None:
        try:
            open(f"{folder}/{os.getpid()}", "w").close()  # then it may be stopped
            time.sleep(600)
        finally:
            os.unlink(f"{folder}/{os.getpid()}")

    @nbray.remote(num_cpus=0)
    def parent(folder: str) -> None:
        nbray.get([leaf.remote(folder) for _ in range(2)])

    folder = module_cluster / "running"
    folder.mkdir()
    ref = parent.remote(str(folder))
    wait_until(lambda: len(list(folder.iterdir())) == 2, "both children to run")
    nbray.cancel(ref)
    with pytest.raises(nbray.exceptions.TaskCancelledError):
        nbray.get(ref, timeout=30)
    wait_until(lambda: not list(folder.iterdir()), "both children to stop")
    folder.rmdir()


def test_a_task_that_waits_for_arguments_can_be_cancelled(module_cluster: Path) -> None:
    @nbray.remote
    def slow() -> int:
        time.sleep(600)
        return 1

    @nbray.remote
    def after(value: int) -> int:
        return value

    first = slow.remote()
    second = after.remote(first)
    nbray.cancel(second)
    with pytest.raises(nbray.exceptions.TaskCancelledError):
        nbray.get(second, timeout=30)
    nbray.cancel(first, force=True)
    with pytest.raises(nbray.exceptions.TaskCancelledError):
        nbray.get(first, timeout=30)


def test_a_running_coroutine_is_cancelled(module_cluster: Path) -> None:
    @nbray.remote
    class Sleeper:
        def __init__(self) -> None:
            self.cancelled = False

        async def sleep(self) -> None:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.cancelled = True
                raise

        async def seen(self) -> bool:
            return self.cancelled

    actor = Sleeper.remote()
    call = actor.sleep.remote()
    nbray.get(actor.seen.remote(), timeout=30)
    with pytest.raises(ValueError, match="force=True is not supported for actor tasks"):
        nbray.cancel(call, force=True)
    nbray.cancel(call)
    with pytest.raises(nbray.exceptions.TaskCancelledError):
        nbray.get(call, timeout=30)
    assert nbray.get(actor.seen.remote(), timeout=30)


@pytest.mark.parametrize("style", ["threads", "coroutines"])
def test_concurrency_groups_do_not_wait_for_each_other(module_cluster: Path, style: str) -> None:
    if style == "threads":

        @nbray.remote(concurrency_groups={"io": 2, "compute": 1})
        class Grouped:
            def __init__(self) -> None:
                self.open = threading.Event()

            @nbray.method(concurrency_group="io")
            def wait(self) -> str:
                return "opened" if self.open.wait(30) else "late"

            @nbray.method(concurrency_group="compute")
            def release(self) -> None:
                self.open.set()
    else:

        @nbray.remote(concurrency_groups={"io": 2, "compute": 1})
        class Grouped:  # type: ignore[no-redef]
            def __init__(self) -> None:
                self.open = False  # an asyncio.Event is of one loop, and each group has its own

            @nbray.method(concurrency_group="io")
            async def wait(self) -> str:
                while not self.open:
                    await asyncio.sleep(0.01)
                return "opened"

            @nbray.method(concurrency_group="compute")
            async def release(self) -> None:
                self.open = True

    actor = Grouped.remote()
    waiting = [actor.wait.remote() for _ in range(3)]
    nbray.get(actor.release.remote(), timeout=30)
    assert nbray.get(waiting, timeout=30) == ["opened"] * 3


def test_an_unknown_concurrency_group_is_named(module_cluster: Path) -> None:
    @nbray.remote(concurrency_groups={"io": 2})
    class Wrong:
        @nbray.method(concurrency_group="disk")
        def read(self) -> None: ...

    with pytest.raises(ValueError, match="disk"):
        Wrong.remote()


def test_exit_actor_ends_it_for_good(module_cluster: Path) -> None:
    @nbray.remote(max_restarts=-1)
    class Leaver:
        def pid(self) -> int:
            return os.getpid()

        def leave(self) -> None:
            exit_actor()

    actor = Leaver.remote()
    before = actor.pid.remote()
    leaving = actor.leave.remote()
    assert isinstance(nbray.get(before, timeout=30), int)
    with pytest.raises(nbray.exceptions.ActorDiedError, match="exit_actor"):
        nbray.get(leaving, timeout=30)
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(actor.pid.remote(), timeout=30)


def test_ray_terminate_lets_earlier_calls_finish(module_cluster: Path) -> None:
    @nbray.remote
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        def add(self) -> int:
            time.sleep(0.01)
            self.n += 1
            return self.n

    actor = Counter.remote()
    calls = [actor.add.remote() for _ in range(10)]
    end = actor.__ray_terminate__.remote()
    assert nbray.get(calls, timeout=30) == list(range(1, 11))
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(end, timeout=30)


def test_max_pending_calls_is_a_bound(module_cluster: Path, tmp_path: Path) -> None:
    @nbray.remote(max_pending_calls=3)
    class Slow:
        def wait(self, gate: Gate) -> None:
            gate.wait_here()

    actor, gate = Slow.remote(), Gate(tmp_path)
    calls = [actor.wait.remote(gate) for _ in range(3)]
    with pytest.raises(nbray.exceptions.PendingCallsLimitExceeded):
        actor.wait.remote(gate)
    gate.open()
    nbray.get(calls, timeout=30)
    nbray.get(actor.wait.remote(gate), timeout=30)


def test_calls_of_a_method_are_retried_after_its_exceptions(module_cluster: Path) -> None:
    @nbray.remote(max_task_retries=3)
    class Flaky:
        def __init__(self) -> None:
            self.tries = 0

        @nbray.method(retry_exceptions=[OSError])
        def third_time(self) -> int:
            self.tries += 1
            if self.tries < 3:
                raise OSError("not yet")
            return self.tries

    assert nbray.get(Flaky.remote().third_time.remote(), timeout=30) == 3


def test_ray_call_runs_a_function_with_the_actor(module_cluster: Path) -> None:
    @nbray.remote
    class Holder:
        def __init__(self) -> None:
            self.value = 42

    holder = Holder.remote()
    assert nbray.get(holder.__ray_call__.remote(lambda self: self.value + 1), timeout=30) == 43


def test_sys_exit_in_a_task_is_a_crash_and_in_an_actor_its_end(module_cluster: Path) -> None:
    @nbray.remote(max_retries=0)
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(nbray.exceptions.WorkerCrashedError):
        nbray.get(leave.remote(), timeout=30)


def test_a_variable_says_how_often_tasks_are_retried(
    module_cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del module_cluster

    def die(path: str) -> None:
        with open(path, "a") as file:
            file.write(".")
        os._exit(1)

    monkeypatch.setenv("RAY_TASK_MAX_RETRIES", "1")
    for number, (task, runs) in enumerate(
        [(nbray.remote(die), 2), (nbray.remote(max_retries=0)(die), 1)]
    ):
        path = tmp_path / str(number)
        with pytest.raises(nbray.exceptions.WorkerCrashedError):
            nbray.get(task.remote(str(path)), timeout=40)
        assert len(path.read_text()) == runs
    monkeypatch.setenv("NBRAY_TASK_MAX_RETRIES", "-2")
    with pytest.raises(ValueError, match="NBRAY_TASK_MAX_RETRIES=-2"):
        nbray.remote(die)
