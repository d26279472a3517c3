"""When memory runs out, and when a worker dies: who is ended, and what the submitter is told."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbray
from nbray.common.memory import MemoryReader, Usage
from nbray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError
from nbray.raylet.workers.memory import Candidate, Victim, choose, pause_s
from nbray.testing import wait_until

MB = 1 << 20
candidates = st.lists(
    st.builds(
        Candidate, st.binary(min_size=4, max_size=4), st.sampled_from("abc"), st.booleans(),
        st.floats(0, 1000),
    ),
    max_size=12, unique_by=lambda candidate: candidate.worker_id,
)  # fmt: skip


# --- whom it ends: the decision --------------------


@given(candidates)
def test_a_retriable_task_is_ended_before_any_other(found: list[Candidate]) -> None:
    victim = choose(found)
    if not found:
        assert victim is None
        return
    assert victim is not None
    (ended,) = [c for c in found if c.worker_id == victim.worker_id]
    assert ended.retriable or not any(c.retriable for c in found)
    alike = [c for c in found if c.owner == ended.owner and c.retriable == ended.retriable]
    if ended.retriable:
        assert ended.since == max(c.since for c in alike), "the newest of its submitter"
        for owner in "abc":
            group = [c for c in found if c.owner == owner and c.retriable]
            assert len(group) <= len(alike), "a submitter with more tasks was spared"
        assert victim.retry == (len(alike) > 1)
    else:
        assert not victim.retry


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.floats(0.01, 10), st.integers(1, 256))
def test_nobody_can_fill_the_memory_before_the_next_look(
    used: int, total: int, period_s: float, cores: int
) -> None:
    pause = pause_s(Usage(used, total), 0.95, period_s, cores)
    assert period_s <= pause <= 4 * period_s
    assert pause == period_s or used + pause * cores * 4e9 <= 0.95 * total * (1 + 1e-9)


def test_each_submitter_keeps_one_task_and_the_last_one_is_not_retried() -> None:
    many = [Candidate(b"m%d" % i, "many", True, i) for i in range(3)]
    few = [Candidate(b"f", "few", True, 100.0)]
    assert choose(many + few) == Victim(b"m2", True)
    assert choose(many[:1] + few) == Victim(b"f", False)
    assert choose([Candidate(b"actor", "many", False, 5.0), many[0]]) == Victim(b"m0", False)


def test_the_limit_of_a_cgroup_counts(tmp_path: Path) -> None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        folder = tmp_path / ("memory" if controllers == "memory" else "") / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for names in (
            ("memory.usage_in_bytes", "memory.limit_in_bytes"),
            ("memory.current", "memory.max"),
        ):
            (folder / names[0]).write_text("995000\n")
            (folder / names[1]).write_text("1000000\n")
        stat = "total_inactive_file 5000\ninactive_file 5000\n"
        (folder / "memory.stat").write_text(stat)
    assert MemoryReader(0, tmp_path).read([]) == Usage(990_000, 1_000_000)


def test_the_machine_is_read_as_it_is() -> None:
    usage = MemoryReader(0).read([])
    assert 0 < usage.used < usage.total
    own = MemoryReader(1).read([os.getpid()])
    assert own.total == 1 and own.used > 10 * MB


# --- real nodes with little memory --------------------


@pytest.fixture
def tight(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node whose processes may use 700 MB."""
    monkeypatch.setenv("NBRAY_NODE_MEMORY_LIMIT_BYTES", str(700 * MB))
    monkeypatch.setenv("NBRAY_MEMORY_MONITOR_REFRESH_MS", "50")
    monkeypatch.setenv("NBRAY_TASK_OOM_RETRY_DELAY_S", "0.2")
    nbray.init(num_cpus=2, object_store_memory=50 * MB)
    return session_root


def grow(megabytes: int, folder: Path | None = None) -> int:
    """Take memory bit by bit, then hold it for a moment.

    Of those that share a folder each holds it until another one is there that begins anew.
    """
    if folder:
        (folder / uuid.uuid4().hex).touch()
        wait_until(lambda: len(os.listdir(folder)) >= 2, "the other one to begin")
    taken = []
    for _ in range(megabytes // 20):
        taken.append(np.ones(20 * MB, np.uint8))
        time.sleep(0.02)
    if folder:
        wait_until(lambda: len(os.listdir(folder)) >= 3, "one of them to be ended and come back")
    else:
        time.sleep(1.0)
    return len(taken)


def test_a_task_that_takes_all_memory_fails_with_what_everybody_took(tight: Path) -> None:
    hog = nbray.remote(grow)
    with pytest.raises(OutOfMemoryError) as e:
        nbray.get(hog.remote(4000), timeout=60)
    text = str(e.value)
    assert text.startswith("Task was killed due to the node running low on memory.")
    assert "exceeds the memory usage threshold of 0.95" in text
    assert re.search(r"\n  \d+\t0\.\d\d\t", text), "the table of the largest processes"
    assert nbray.get(hog.remote(20), timeout=30) == 1, "the next task runs"


@pytest.mark.slow
def test_of_two_tasks_the_newer_one_waits_and_both_succeed(tight: Path, tmp_path: Path) -> None:
    hog = nbray.remote(max_retries=1)(grow)  # to be ended for memory does not use it up
    first = hog.remote(420, tmp_path)
    second = hog.remote(420, tmp_path)
    assert nbray.get([first, second], timeout=90) == [21, 21]
    log = nbray.driver.joining.find_session("auto")[0].log_path("raylet.log").read_text()
    assert "running low on memory" in log


def test_an_actor_that_takes_all_memory_dies_with_that_cause(tight: Path) -> None:
    @nbray.remote
    class Hog:
        def grow(self) -> int:
            return grow(4000)

    actor = Hog.remote()
    with pytest.raises(ActorDiedError, match="running low on memory"):
        nbray.get(actor.grow.remote(), timeout=60)


# --- how a worker died --------------------


def test_a_crash_is_told_with_facts(cluster: Path) -> None:
    @nbray.remote(max_retries=0)
    def crash() -> None:
        print("the last words", file=sys.__stderr__, flush=True)
        os.write(2, b"written to the descriptor\n")
        os._exit(17)

    with pytest.raises(WorkerCrashedError) as e:
        nbray.get(crash.remote(), timeout=30)
    text = str(e.value)
    assert text.startswith("The worker died unexpectedly while executing this task")
    assert "exit status 17" in text
    assert re.search(r"worker pid \d+ ", text)
    assert re.search(r"\d+ MB peak", text)
    assert f"on node {nbray.get_runtime_context().get_node_id()[:8]}" in text
    assert "written to the descriptor" in text


def test_a_crash_by_a_signal_is_told_by_its_name(cluster: Path) -> None:
    @nbray.remote(max_retries=0)
    def crash() -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(WorkerCrashedError, match="SIGSEGV"):
        nbray.get(crash.remote(), timeout=30)


def test_an_actors_crash_is_told_with_facts(cluster: Path) -> None:
    @nbray.remote
    class Actor:
        def crash(self) -> None:
            os.write(2, b"an actor's last words\n")
            os._exit(18)

    actor = Actor.remote()
    with pytest.raises(ActorDiedError, match="exit status 18") as e:
        nbray.get(actor.crash.remote(), timeout=30)
    assert "an actor's last words" in str(e.value)


def test_tasks_of_a_crashed_worker_are_retried_soon(cluster: Path, tmp_path: Path) -> None:
    @nbray.remote(max_retries=1)
    def once(folder: str) -> str:
        try:
            Path(folder, "tried").touch(exist_ok=False)
        except FileExistsError:
            return "again"
        os._exit(1)

    assert nbray.get(once.remote(str(tmp_path)), timeout=30) == "again"
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "all CPUs to be free")
