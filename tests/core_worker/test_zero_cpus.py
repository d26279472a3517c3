"""Tasks without CPUs have as many workers as they ask for: the very short ones ask for few."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from support.pending import pending_task

import nbray
from nbray.common.config import Config
from nbray.common.limits import cpu_count
from nbray.core_worker import decisions as d
from nbray.core_worker.identity import Identity
from nbray.core_worker.submit.leasing import Leasing
from nbray.core_worker.task_options import TaskOptions
from nbray.testing import wait_until
from nbray.wire import messages as m
from nbray.wire.records import Address, JobConfig, TaskSpec
from nbray.wire.strategies import Shape

NODE = b"n" * 28
NO_CPUS = Shape(())


class Submitter:
    """A `Leasing` on a machine of few cores, whose raylet grants whatever is asked for."""

    def __init__(self, cores: int = 2) -> None:
        me = Identity(b"m" * 28)
        me.cores = cores
        me.address = Address(me.worker_id, NODE, "", "", 0)
        me.job = JobConfig(b"job0", "", me.address, [], "")
        self.decisions: deque[Any] = deque()
        self.leasing = Leasing(me, Config(), self.decisions, lambda _done, _options: True)
        self.count = self.workers = 0
        self.pushed: dict[bytes, list[bytes]] = {}

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.count += 1
            spec = TaskSpec(self.count.to_bytes(24, "big"), b"job0", b"f", "f", b"")
            task = pending_task(spec, TaskOptions(NO_CPUS, retries=3))
            self.leasing.tasks[task.first] = task
            self.leasing.enqueue(task)

    def turn(self) -> None:
        while self.leasing.dirty or self.decisions:
            self.leasing.dispatch()
            while self.decisions:
                decision = self.decisions.popleft()
                if isinstance(decision, d.AskLease):
                    assert decision.request.backlog >= 1
                    self.workers += 1
                    worker = Address(self.workers.to_bytes(28, "big"), NODE, "", "", 0)
                    self.leasing.granted(
                        NODE, m.LeaseGranted(decision.request.request_id, self.workers, worker), 0.0
                    )
                elif isinstance(decision, d.Push):
                    pushed = self.pushed.setdefault(decision.worker.worker_id, [])
                    pushed.extend(task.task_id for task in decision.tasks)

    def answer(self, seconds: float) -> int:
        """All that was pushed ends after so long; how many workers had some of it."""
        pushed, self.pushed = self.pushed, {}
        for task_ids in pushed.values():
            for task_id in task_ids:
                task = self.leasing.find(task_id)
                assert task is not None
                self.leasing.done(task, b"", m.TaskDone(task_id, [], seconds), 0.0)
        return len(pushed)


def test_very_short_tasks_without_cpus_go_to_as_many_workers_as_there_are_cores() -> None:
    one = Submitter()
    one.submit(40)
    one.turn()
    assert one.answer(1e-5) == one.workers == 40  # nobody knows yet how short they are
    for count, workers in (900, 2), (900, 2), (2000, 5), (900, 2):  # 5 ms of work for each
        one.submit(count)
        one.turn()
        assert one.answer(1e-5) == workers
        while one.leasing.tasks:
            one.turn()
            one.answer(1e-5)
    assert one.workers == 40


def test_longer_tasks_without_cpus_go_to_a_worker_each() -> None:
    one = Submitter()
    one.submit(3)
    one.turn()
    one.answer(0.1)
    one.submit(30)
    one.turn()
    assert one.answer(0.1) == one.workers == 30


def test_tasks_that_turn_out_to_be_long_ask_for_a_worker_each_of_those_that_wait() -> None:
    one = Submitter(cores=1)
    one.submit(1)
    one.turn()
    one.answer(1e-5)
    one.submit(450)
    one.turn()
    ((_, pushed),) = one.pushed.items()
    assert len(pushed) == 450
    one.leasing.returned(m.TasksReturned(pushed[-3:]), 0.0)  # the first of them takes long
    one.turn()
    assert one.workers == 1 + 3


@pytest.mark.parametrize("retries", [0, 3])
def test_what_long_tasks_wait_for_is_run_though_they_cannot_be_run_again(
    cluster: Path, tmp_path: Path, retries: int
) -> None:
    """They were taken for short ones, for which as many workers as cores are enough."""

    @nbray.remote(num_cpus=0, max_retries=0)
    def act(what: str, number: int) -> int:
        if what == "wait":
            (tmp_path / f"{number}").touch()
            wait_until((tmp_path / "go").exists, "the word to go on", 60)
        if what == "go":
            (tmp_path / "go").touch()
        return number

    cores = cpu_count()
    many = act.options(max_retries=3)
    nbray.get([many.remote("nothing", i) for i in range(2000)], timeout=60)
    waits = [act.remote("wait", i) for i in range(cores)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == cores, "as many that wait as cores")
    go = act.options(max_retries=retries).remote("go", cores)
    assert nbray.get([go, *waits], timeout=30) == [cores, *range(cores)]
