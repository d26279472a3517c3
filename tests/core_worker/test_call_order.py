"""Calls of one caller run in order; those that may, overtake others that wait for arguments."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.exceptions import ActorUnavailableError
from nbray.testing import wait_until


class Log:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def add(self, number: int) -> int:
        self.seen.append(number)
        return number

    def all(self) -> list[int]:
        return self.seen


class AsyncLog:
    def __init__(self) -> None:
        self.seen: list[int] = []

    async def add(self, number: int) -> int:
        self.seen.append(number)
        return number

    async def all(self) -> list[int]:
        return self.seen


@nbray.remote(num_cpus=0)
def when_there(path: str, number: int) -> int:
    while not Path(path).exists():
        time.sleep(0.01)
    return number


def test_a_call_waits_for_the_arguments_of_earlier_ones(
    module_cluster: Path, tmp_path: Path
) -> None:
    log = nbray.remote(Log).remote()
    gate = tmp_path / "gate"
    late = log.add.remote(when_there.remote(str(gate), 1))
    calls = [log.add.remote(2), log.add.remote(3)]
    assert nbray.wait(calls, timeout=0.3)[0] == []
    gate.touch()
    assert nbray.get([late, *calls], timeout=30) == [1, 2, 3]
    assert nbray.get(log.all.remote()) == [1, 2, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nbray.remote(allow_out_of_order_execution=True)(Log).remote(),
        lambda: nbray.remote(max_concurrency=2)(Log).remote(),
        lambda: nbray.remote(AsyncLog).remote(),
    ],
    ids=["allowed", "threaded", "async"],
)
def test_calls_overtake_where_they_may(
    module_cluster: Path, tmp_path: Path, make: Callable[[], Any]
) -> None:
    log = make()
    gates = [tmp_path / name for name in "abc"]
    late = [log.add.remote(when_there.remote(str(gate), i)) for i, gate in enumerate(gates)]
    calls = [log.add.remote(10), log.add.remote(11)]
    assert sorted(nbray.get(calls, timeout=30)) == [10, 11]
    gates[1].touch()
    assert nbray.get(late[1], timeout=30) == 1
    nbray.cancel(late[2])
    with pytest.raises(nbray.exceptions.TaskCancelledError):
        nbray.get(late[2], timeout=30)
    gates[2].touch()
    gates[0].touch()
    assert nbray.get(late[0], timeout=30) == 0
    assert nbray.get(log.all.remote(), timeout=30)[-2:] == [1, 0]


def test_what_overtook_is_sent_again_to_a_new_process(module_cluster: Path, tmp_path: Path) -> None:
    log = nbray.remote(allow_out_of_order_execution=True, max_restarts=1, max_task_retries=1)(
        Log
    ).remote()
    assert nbray.get(log.all.remote(), timeout=30) == []
    late = log.add.remote(when_there.remote(str(tmp_path / "gate"), 1))
    nbray.kill(log, no_restart=False)
    wait_until(lambda: nbray.get(log.add.remote(2), timeout=30) == 2, "the actor that came back")
    (tmp_path / "gate").touch()
    assert nbray.get(late, timeout=30) == 1


def test_async_and_threaded_actors_have_no_order(module_cluster: Path) -> None:
    for wrong in (
        nbray.remote(allow_out_of_order_execution=False)(AsyncLog),
        nbray.remote(allow_out_of_order_execution=False, max_concurrency=2)(Log),
    ):
        with pytest.raises(ValueError, match="allow_out_of_order_execution cannot be False"):
            wrong.remote()


def test_a_call_that_is_repeated_goes_before_those_that_wait_for_it(
    module_cluster: Path, tmp_path: Path
) -> None:
    @nbray.remote(num_cpus=0)
    class Flaky:
        def __init__(self) -> None:
            self.seen: list[int] = []

        @nbray.method(max_task_retries=2, retry_exceptions=True)
        def one(self, number: int) -> int:
            self.seen.append(number)
            if self.seen.count(number) < 3:
                raise ValueError("not yet")
            return number

        def add(self, one: int, other: int) -> int:
            self.seen.append(-one)
            return one + other

        def all(self) -> list[int]:
            return self.seen

    flaky = Flaky.remote()
    # Each waits for one before it, and the next for all of them, in their order.
    sums = [flaky.add.remote(flaky.one.remote(n), 10) for n in range(1, 4)]
    seen = nbray.get(flaky.all.remote(), timeout=60)
    assert nbray.get(sums, timeout=60) == [11, 12, 13]
    assert [n for n in seen if n < 0] == [-1, -2, -3]
    assert [seen.count(n) for n in (1, 2, 3)] == [3, 3, 3]


def test_a_call_of_an_actor_that_is_being_restarted_fails_unless_it_may_be_repeated(
    module_cluster: Path, tmp_path: Path
) -> None:
    @nbray.remote(num_cpus=0, max_restarts=-1)
    class Slow:
        def __init__(self, folder: Path) -> None:
            began = folder / "began"
            while began.exists() and not (folder / "gate").exists():
                time.sleep(0.01)
            began.write_text(str(os.getpid()))

        def ping(self, _value: int = 0) -> str:
            return "pong"

    slow = Slow.remote(tmp_path)
    assert nbray.get(slow.ping.remote(), timeout=30) == "pong"
    late = slow.ping.remote(when_there.remote(str(tmp_path / "argument"), 1))
    pid = (tmp_path / "began").read_text()
    nbray.kill(slow, no_restart=False)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of its process")
    repeated = slow.ping.options(max_task_retries=1).remote()
    (tmp_path / "argument").touch()
    with pytest.raises(ActorUnavailableError):
        nbray.get(late, timeout=30)
    with pytest.raises(ActorUnavailableError, match="being restarted"):
        nbray.get(slow.ping.remote(), timeout=30)
    (tmp_path / "gate").touch()
    assert nbray.get(repeated, timeout=30) == "pong"
