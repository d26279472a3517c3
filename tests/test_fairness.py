"""Nobody keeps a worker for ever while others wait, and nobody pays for another's crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nbray

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
