"""Nobody keeps a worker for ever while others wait, and nobody pays for another's crash."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import running, template_of
from support.stopping import stand_still

import nbray
from nbray.testing import wait_until
from nbray.util.placement_group import placement_group, remove_placement_group
from nbray.util.state import list_demand

GREEDY = """
import nbray, time
nbray.init("auto")
@nbray.remote
def short(i):
    time.sleep(0.01)
refs = [short.remote(i) for i in range(6000)]
nbray.wait(refs)
print("up", flush=True)
nbray.wait(refs, num_returns=len(refs))
"""


def test_a_driver_with_a_long_queue_lets_another_have_its_turn(session_root: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=50 << 20)
    greedy = subprocess.Popen([sys.executable, "-c", GREEDY], stdout=subprocess.PIPE)
    try:
        assert greedy.stdout is not None
        assert greedy.stdout.readline() == b"up\n"
        assert nbray.get(nbray.remote(lambda: "mine").remote(), timeout=40) == "mine"
        assert greedy.poll() is None, "the other driver is still at work"
    finally:
        greedy.kill()
        greedy.wait()
        assert greedy.stdout is not None
        greedy.stdout.close()


@pytest.fixture
def keeping_workers(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two CPUs, where submitters keep idle workers for as long as nobody asks for them."""
    monkeypatch.setenv("NBRAY_LEASE_IDLE_S", "600")
    monkeypatch.setenv("NBRAY_LEASE_SHARE_S", "600")
    nbray.init(num_cpus=2, object_store_memory=50 << 20)
    return session_root


def test_bursts_of_several_pass_the_workers_on_as_soon_as_they_are_idle(
    keeping_workers: Path,
) -> None:

    @nbray.remote
    def nothing() -> None:
        return None

    @nbray.remote(num_cpus=0)
    class Submitter:
        def run(self, count: int) -> int:
            return len(nbray.get([nothing.remote() for _ in range(count)]))

    submitters = [Submitter.remote() for _ in range(5)]
    for count in (1, 30, 300):
        runs = [submitter.run.remote(count) for submitter in submitters]
        assert nbray.get(runs, timeout=60) == [count] * 5
    other_shape = nbray.remote(num_cpus=2)(lambda: "both")
    assert nbray.get(other_shape.remote(), timeout=60) == "both"
    assert nbray.get(nothing.options(num_cpus=1.5).remote(), timeout=60) is None


def test_who_has_a_part_of_what_is_lacked_gives_it_back_though_the_rest_was_being_started(
    keeping_workers: Path,
) -> None:
    nothing = nbray.remote(lambda: None)
    nbray.get(nothing.remote(), timeout=60)
    (raylet,) = running(keeping_workers, "nbray.raylet")
    template = template_of(raylet)
    stand_still(template.pid)
    try:
        starts = nothing.options(runtime_env={"env_vars": {"A": "1"}}).remote()
        wait_until(lambda: not nbray.available_resources().get("CPU"), "its CPU to be taken")
        both = nbray.remote(num_cpus=2)(lambda: "both").remote()
        wait_until(lambda: {"CPU": 2.0} in [row.resources for row in list_demand()], "it to wait")
    finally:
        template.resume()
    assert nbray.get([starts, both], timeout=60) == [None, "both"]


def test_a_long_queue_lets_other_shapes_and_actors_in(session_root: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=50 << 20, resources={"other": 1})

    @nbray.remote
    def short() -> None:
        time.sleep(0.01)

    @nbray.remote(num_cpus=1)
    class Held:
        def value(self) -> int:
            return 7

    refs = [short.remote() for _ in range(6000)]
    nbray.wait(refs, timeout=30)
    shaped = nbray.remote(resources={"other": 1})(lambda: "shaped").remote()
    assert nbray.get(shaped, timeout=40) == "shaped"
    held = Held.remote()
    assert nbray.get(held.value.remote(), timeout=40) == 7
    unfinished = nbray.wait(refs, num_returns=len(refs), timeout=0)[1]
    assert unfinished, "the queue is still long"


def test_tasks_behind_a_crash_are_run_again_without_charge(
    session_root: Path, tmp_path: Path
) -> None:
    nbray.init(num_cpus=1, object_store_memory=50 << 20)

    @nbray.remote(max_retries=1)
    def step(i: int) -> int:
        if i % 50 == 0:
            marker = tmp_path / f"{i}"
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return i

    assert nbray.get([step.remote(i) for i in range(400)], timeout=100) == list(range(400))


def test_a_task_that_may_not_be_retried_is_run_once_and_never_for_others(
    session_root: Path, tmp_path: Path
) -> None:
    nbray.init(num_cpus=1, object_store_memory=50 << 20)

    @nbray.remote(max_retries=0)
    def once(i: int) -> int:
        with open(tmp_path / f"{i}", "a") as file:
            file.write("x")
        if i == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    refs = [once.remote(i) for i in range(60)]
    with pytest.raises(nbray.exceptions.WorkerCrashedError):
        nbray.get(refs[20], timeout=60)
    del refs[20]
    assert nbray.get(refs, timeout=60) == [i for i in range(60) if i != 20]
    assert all(len((tmp_path / f"{i}").read_text()) == 1 for i in range(60))


@pytest.fixture
def busy(session_root: Path) -> Iterator[None]:
    """Three CPUs, which short tasks of one CPU take without end."""
    nbray.init(num_cpus=3, object_store_memory=50 << 20)

    @nbray.remote
    def short(seconds: float) -> None:
        time.sleep(seconds)

    over = threading.Event()

    def keep_busy() -> None:
        chosen = random.Random(0)
        refs = [short.remote(chosen.uniform(0.01, 0.05)) for _ in range(100)]
        while not over.is_set():
            done, refs = nbray.wait(refs, num_returns=1, timeout=30)
            refs += [short.remote(chosen.uniform(0.01, 0.05)) for _ in done]

    stream = threading.Thread(target=keep_busy)
    stream.start()
    wait_until(lambda: nbray.available_resources().get("CPU", 0) == 0, "a busy node")
    try:
        yield
    finally:
        over.set()
        stream.join(60)


@pytest.mark.slow
def test_what_needs_many_cpus_gets_them_from_a_stream_of_small_tasks(busy: None) -> None:
    @nbray.remote(num_cpus=3)
    class Wide:
        def value(self) -> str:
            return "actor"

    assert nbray.get(nbray.remote(num_cpus=3)(lambda: "task").remote(), timeout=30) == "task"
    wide = Wide.remote()
    assert nbray.get(wide.value.remote(), timeout=30) == "actor"
    nbray.kill(wide)
    group = placement_group([{"CPU": 1.5}, {"CPU": 1.5}])
    assert group.wait(30)
    remove_placement_group(group)
    group = placement_group([{"CPU": 3}], strategy="STRICT_PACK")
    assert group.wait(30)
    remove_placement_group(group)


def test_what_came_at_once_with_a_long_task_does_not_stand_behind_it(
    cluster: Path, tmp_path: Path
) -> None:
    """Once a function is known to be quick, several of its tasks are pushed to a worker at once."""

    @nbray.remote(num_cpus=0)
    def when_there(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.01)
        return path

    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    for _ in range(3):
        for _ in range(5):  # one lease serves them all
            nbray.get(when_there.remote(str(tmp_path)), timeout=30)
        long, quick, other = (when_there.remote(path) for path in (first, second, first))
        time.sleep(0.05)  # long enough for them to be at one worker
        Path(second).touch()
        assert nbray.get(quick, timeout=30) == second
        Path(first).touch()
        assert nbray.get([long, other], timeout=30) == [first, first]
        os.remove(first)
        os.remove(second)


def test_what_has_ended_is_not_failed_by_a_crash_behind_it(session_root: Path) -> None:
    """A worker keeps small replies for a moment: that of a task that may not be run again, too."""
    nbray.init(num_cpus=1, object_store_memory=50 << 20)

    @nbray.remote(max_retries=0)
    def once() -> str:
        return "ended"

    @nbray.remote(max_retries=1)
    def crashes() -> None:
        os._exit(1)

    nbray.get([once.remote() for _ in range(30)], timeout=30)  # they are known to be short
    refs = [ref for _ in range(5) for ref in (once.remote(), crashes.remote())]
    assert nbray.get(refs[::2], timeout=60) == ["ended"] * 5


def test_threads_of_a_task_that_wait_keep_its_cpus_free_until_the_last(session_root: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=50 << 20)

    @nbray.remote
    def whole() -> str:
        time.sleep(0.3)  # both threads wait by then
        return "whole"

    @nbray.remote(num_cpus=0.5)
    def half() -> str:
        return "half"

    @nbray.remote(num_cpus=0.7)
    def more(_first: str) -> str:
        return "more"

    @nbray.remote
    def parent() -> list[str]:
        got: list[str] = []

        def one() -> None:
            got.append(nbray.get(whole.remote()))

        def other() -> None:
            first = half.remote()
            got.extend([nbray.get(first), nbray.get(more.remote(first))])

        threads = [threading.Thread(target=action) for action in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(got)

    assert nbray.get(parent.remote(), timeout=20) == ["half", "more", "whole"]
