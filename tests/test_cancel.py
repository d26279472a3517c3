"""Tasks and calls are stopped: asked once, ended by force the second time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import wait_until

import nbray
from nbray.exceptions import TaskCancelledError
from nbray.util import local_state


@nbray.remote
def stubborn(folder: str) -> None:
    """Leaves a file for each start, and stays."""
    (Path(folder) / str(time.monotonic_ns())).touch()
    while True:
        try:
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


def test_a_call_that_runs_is_stopped_and_its_actor_stays(cluster: Path) -> None:
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
        nbray.cancel(running)
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
    from nbray.util.function_pickles import new_epoch

    helper = {"value": 1}

    @nbray.remote
    def read() -> int:
        return helper["value"]

    assert nbray.get(read.remote(), timeout=30) == 1
    helper["value"] = 2
    new_epoch()
    assert nbray.get(read.remote(), timeout=30) == 2
