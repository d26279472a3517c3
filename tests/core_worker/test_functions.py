"""The functions that workers keep: as many as are worth it, and none is missing when it is run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import psutil
import pytest

import nbray
from nbray import cloudpickle
from nbray.core_worker.run.functions import Functions
from nbray.testing import wait_until

MB = 1 << 20


def known_after(functions: Functions, calls: list[int], needed: set[int]) -> list[int]:
    for number in calls:
        name = b"%d" % number
        if name not in functions:
            functions.learn(name, cloudpickle.dumps(lambda number=number: number))
        called = functions.get(name, lambda: [b"%d" % i for i in needed])
        assert called() == number
    return [number for number in range(100) if b"%d" % number in functions]


def test_those_that_were_not_run_for_longest_are_dropped() -> None:
    assert known_after(Functions(most=3), [1, 2, 3, 1, 4], set()) == [1, 3, 4]


def test_what_a_waiting_task_needs_is_kept() -> None:
    assert known_after(Functions(most=2), [1, 2, 3, 4, 5], {1, 2}) == [1, 2, 5]


def test_large_ones_count_by_their_bytes() -> None:
    size = len(cloudpickle.dumps(lambda number=1: number))
    assert known_after(Functions(most_bytes=3 * size), list(range(10)), set()) == [7, 8, 9]


def test_one_that_alone_is_too_large_is_kept_while_it_is_the_newest() -> None:
    assert known_after(Functions(most_bytes=1), [1, 2], set()) == [2]


@pytest.mark.slow
def test_a_worker_does_not_keep_every_version_of_a_function(cluster: Path) -> None:
    def version(number: int) -> nbray.remote_function.RemoteFunction:
        captured = np.full(40 * MB, number % 200, np.uint8)

        @nbray.remote(num_cpus=2)
        def function() -> tuple[int, int, int]:
            return int(captured[-1]), os.getpid(), psutil.Process().memory_info().rss

        return function

    rounds = 12
    kept = [version(number) for number in range(2)]
    most = 0
    for number in range(rounds):
        value, pid, memory = nbray.get(version(number).remote())
        assert value == number
        most = max(most, memory)
    assert most < rounds * 40 * MB
    # One that was dropped comes along again.
    for number, function in enumerate(kept):
        assert nbray.get(function.remote())[0] == number
    del pid
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "the return of the CPUs")


def test_a_function_that_was_dropped_is_sent_again_to_the_same_worker(cluster: Path) -> None:
    def version(number: int) -> nbray.remote_function.RemoteFunction:
        @nbray.remote(num_cpus=2)
        def function() -> tuple[int, int]:
            return number, os.getpid()

        return function

    functions = [version(number) for number in range(600)]
    first = nbray.get([function.remote() for function in functions])
    again = nbray.get([function.remote() for function in functions])
    assert [number for number, _ in first] == [number for number, _ in again] == list(range(600))
    assert len({pid for _, pid in first + again}) == 1
