"""Tasks and calls are stopped: asked once, ended by force the second time."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

import nbray
from nbray.exceptions import TaskCancelledError, TaskError
from nbray.state import local_state
from nbray.testing import Gate, wait_until


@nbray.remote
def stubborn(folder: str) -> None:
    """Leaves a file for each start, and stays."""
    start = Path(folder) / str(time.monotonic_ns())
    while True:
        try:
            start.touch()  # an interrupt may come as soon as it is seen
            time.sleep(1)
        except BaseException:
            continue


def test_a_killed_task_is_not_run_again(cluster: Path, tmp_path: Path) -> None:
    ref = stubborn.remote(str(tmp_path))
    wait_until(lambda: list(tmp_path.iterdir()), "the start of the task")
    nbray.cancel(ref)
    assert not nbray.wait([ref], timeout=0.5)[0]
    nbray.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        nbray.get(ref, timeout=30)
    assert len(list(tmp_path.iterdir())) == 1


def test_calls_of_a_task_that_is_killed_are_cancelled_with_it(
    cluster: Path, tmp_path: Path
) -> None:
    @nbray.remote(num_cpus=0)
    class Waits:
        async def wait(self, path: str) -> None:
            Path(path, "begun").touch()
            try:
                await asyncio.sleep(600)
            finally:
                Path(path, "ended").touch()

    @nbray.remote(max_retries=0)
    def parent(actor: nbray.ActorHandle) -> None:
        nbray.get(actor.wait.remote(str(tmp_path)))

    ref = parent.remote(Waits.remote())
    wait_until((tmp_path / "begun").exists, "the call")
    nbray.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        nbray.get(ref, timeout=30)
    wait_until((tmp_path / "ended").exists, "the end of the call")


def test_a_call_that_is_interrupted_stops_and_its_actor_stays(cluster: Path) -> None:
    @nbray.remote
    class Sleeper:
        def sleep(self, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

    sleeper = Sleeper.remote()
    assert nbray.get(sleeper.sleep.remote(0), timeout=30) == 0
    running, queued = sleeper.sleep.remote(60), sleeper.sleep.remote(0.1)
    wait_until(lambda: len(local_state.unfinished_tasks()) == 2, "both calls")
    deadline = time.monotonic() + 30
    while not nbray.wait([running], timeout=0.2)[0]:
        assert time.monotonic() < deadline
        local_state.cancel_tasks([running.task_id()])
    with pytest.raises(TaskCancelledError):
        nbray.get(running)
    assert nbray.get(queued, timeout=30) == 0.1


def test_what_is_under_way_can_be_listed_and_stopped(cluster: Path) -> None:
    @nbray.remote
    def nap() -> None:
        time.sleep(60)

    refs = [nap.remote() for _ in range(5)]
    assert {task.binary() for task in local_state.unfinished_tasks()} == {
        ref.task_id().binary() for ref in refs
    }
    deadline = time.monotonic() + 30
    while local_state.unfinished_tasks():
        assert time.monotonic() < deadline
        local_state.cancel_tasks(local_state.unfinished_tasks())
        nbray.wait(refs, num_returns=5, timeout=0.2)
    assert local_state.describe(refs[0]).state == "failed"


def test_a_ref_tells_its_size_and_place_without_fetching(cluster: Path) -> None:
    small, large = nbray.put(b"x" * 1000), nbray.put(b"x" * 1_000_000)
    assert local_state.describe(small).inline
    facts = local_state.describe(large)
    assert facts.state == "ready" and facts.size is not None and 1_000_000 <= facts.size < 1_001_000
    assert [node.hex() for node in facts.nodes] == [nbray.nodes()[0]["NodeID"]]


def test_a_new_epoch_sends_what_a_function_calls_as_it_is_now(cluster: Path) -> None:
    from nbray.calls.function_pickles import new_epoch

    helper = {"value": 1}

    @nbray.remote
    def read() -> int:
        return helper["value"]

    assert nbray.get(read.remote(), timeout=30) == 1
    helper["value"] = 2
    new_epoch()
    assert nbray.get(read.remote(), timeout=30) == 2


@nbray.remote
class Methods:
    """Methods that tell when they run, and what they make of being cancelled."""

    def __init__(self) -> None:
        self.runs = False
        self.saw = False

    def is_running(self) -> bool:
        return self.runs

    def has_seen(self) -> bool:
        return self.saw

    def until_cancelled(self, fails: bool) -> str:
        self.runs = True
        while not nbray.get_runtime_context().is_canceled():
            time.sleep(0.01)
        self.runs, self.saw = False, True
        if fails:
            raise ValueError("its own error")
        return "its value"


@nbray.remote
class AsyncMethods:
    """The same for coroutines."""

    def __init__(self) -> None:
        self.runs = False

    async def is_running(self) -> bool:
        return self.runs

    async def long(self, then: str) -> str:
        self.runs = True
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.runs = False
            if then == "fail":
                raise ValueError("its own error") from None
            if then == "return":
                return "its value"
            raise
        return "too late"


@pytest.mark.parametrize("fails", [False, True])
def test_a_method_is_asked_to_stop_and_its_value_is_lost(cluster: Path, fails: bool) -> None:
    methods = Methods.options(max_concurrency=2).remote()
    ref = methods.until_cancelled.remote(fails)
    wait_until(lambda: nbray.get(methods.is_running.remote()), "the method")
    with pytest.raises(ValueError, match=r"^force=True is not supported for actor tasks"):
        nbray.cancel(ref, force=True)
    nbray.cancel(ref)
    with pytest.raises(ValueError if fails else TaskCancelledError):
        nbray.get(ref, timeout=30)
    alone = Methods.remote()
    assert not nbray.get(alone.has_seen.remote(), timeout=30)
    ref = alone.until_cancelled.remote(fails)
    deadline = time.monotonic() + 30
    while not nbray.wait([ref], timeout=0.2)[0]:  # it may not have come there yet
        assert time.monotonic() < deadline
        nbray.cancel(ref)
    with pytest.raises(ValueError if fails else TaskCancelledError):
        nbray.get(ref, timeout=30)
    assert nbray.get(alone.has_seen.remote(), timeout=30)


def test_a_coroutine_that_was_cancelled_has_no_value_whatever_it_does(cluster: Path) -> None:
    methods = AsyncMethods.remote()
    for then in ("raise", "return", "fail"):
        ref = methods.long.remote(then)
        wait_until(lambda: nbray.get(methods.is_running.remote()), "the coroutine")
        nbray.cancel(ref)
        with pytest.raises(TaskCancelledError) as caught:
            nbray.get(ref, timeout=30)
        assert isinstance(caught.value, TaskError)


def test_a_task_may_make_something_of_being_cancelled(cluster: Path, tmp_path: Path) -> None:
    @nbray.remote
    def long(then: str) -> str:
        (tmp_path / then).touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            if then == "fail":
                raise ValueError("its own error") from None
            if then == "return":
                return "its value"
            raise
        return "too late"

    def cancelled(then: str) -> nbray.ObjectRef:
        ref = long.remote(then)
        wait_until((tmp_path / then).exists, "the task")
        nbray.cancel(ref)
        return ref

    assert nbray.get(cancelled("return"), timeout=30) == "its value"
    with pytest.raises(ValueError, match="its own error"):
        nbray.get(cancelled("fail"), timeout=30)
    with pytest.raises(TaskError) as caught:
        nbray.get(cancelled("raise"), timeout=30)
    assert isinstance(caught.value, TaskCancelledError)


def test_a_cancel_that_comes_while_the_worker_ends_its_task_does_not_end_the_worker(
    cluster: Path,
) -> None:
    @nbray.remote(max_retries=0)
    def noisy() -> int:
        os.write(1, b"a line that C code wrote\n" * 20_000)  # which is read when the task ends
        return os.getpid()

    pids = set()
    for number in range(60):
        ref = noisy.remote()
        time.sleep(0.0005 * (number % 40))  # at another point of its life each time
        nbray.cancel(ref)
        try:
            pids.add(nbray.get(ref))
        except TaskCancelledError:
            continue
    assert len(pids) <= 2, "a worker has ended"


def test_a_cancel_that_crosses_the_return_of_its_task_is_not_lost(
    cluster: Path, tmp_path: Path
) -> None:
    marks, gates = tmp_path / "marks", tmp_path / "gates"
    marks.mkdir()
    gates.mkdir()

    @nbray.remote(num_cpus=2)
    def mark(number: int) -> None:
        (marks / str(number)).touch()

    @nbray.remote(num_cpus=2)
    def long(gate: Gate) -> None:
        gate.wait_here()

    for number in range(10):
        nbray.get([mark.remote(0) for _ in range(30)])  # its tasks are known to be short
        gate = Gate(gates)
        first = long.remote(gate)
        refs = [mark.remote(number * 100 + i) for i in range(1, 41)]
        time.sleep(0.015 + 0.001 * number)  # after 20 ms, the worker gives them back
        for ref in refs:
            nbray.cancel(ref)
        for ref in refs:
            with pytest.raises(TaskCancelledError):
                nbray.get(ref)
        gate.open()
        nbray.get(first)
    assert [path.name for path in marks.iterdir()] == ["0"]


def test_a_call_behind_one_that_was_cancelled_is_made(cluster: Path) -> None:
    """In its order it stood behind one that waited for its argument, and for nothing itself."""

    @nbray.remote(num_cpus=0)
    class Echo:
        def say(self, word: object) -> object:
            return word

    echo = Echo.remote()
    assert nbray.get(echo.say.remote("up"), timeout=30) == "up"
    never = nbray.remote(num_cpus=0)(time.sleep).remote(600)
    waits, behind = echo.say.remote(never), echo.say.remote("behind")
    assert not nbray.wait([behind], timeout=0.2)[0]
    nbray.cancel(waits)
    assert nbray.get(behind, timeout=30) == "behind"
    with pytest.raises(TaskCancelledError):
        nbray.get(waits, timeout=30)
    nbray.cancel(never)
