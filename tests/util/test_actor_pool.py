"""`ActorPool`: every value has one outcome, whatever becomes of actors, waits and iterables."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.exceptions import ActorDiedError
from nbray.util import ActorPool


@nbray.remote(num_cpus=0)
class Worker:
    def __init__(self, kind: str = "") -> None:
        self.kind = kind

    def run(self, value: int) -> int:
        if self.kind == "dies":
            os._exit(1)
        if self.kind == "raises":
            raise ValueError("a bad machine")
        return 2 * value

    @nbray.method(num_returns=2)
    def both(self, value: int) -> tuple[int, int]:
        return value, -value

    def gate(self, path: str, value: int) -> int:
        while not os.path.exists(path):
            threading.Event().wait(0.01)
        return value


@pytest.fixture(scope="module")
def cluster(module_cluster: Path) -> Path:
    return module_cluster


def run(actor: Any, value: int) -> Any:
    return actor.run.remote(value)


def outcomes(pool: ActorPool, ordered: bool) -> list[Any]:
    found: list[Any] = []
    while pool.has_next():
        try:
            found.append(pool.get_next(20) if ordered else pool.get_next_unordered(20))
        except Exception as error:
            found.append(type(error))
    return found


@pytest.mark.parametrize("ordered", [True, False])
def test_a_dead_actor_gets_no_work_and_each_value_has_an_outcome(
    cluster: Path, ordered: bool
) -> None:
    pool = ActorPool([Worker.remote("dies"), Worker.remote()])
    for value in range(20):
        pool.submit(run, value)
    found = outcomes(pool, ordered)
    assert found.count(ActorDiedError) == 1
    assert sorted(f for f in found if f is not ActorDiedError) == [2 * v for v in range(1, 20)]


def test_when_all_actors_are_dead_each_value_says_so_and_a_new_one_goes_on(cluster: Path) -> None:
    pool = ActorPool([Worker.remote("dies")])
    for value in range(5):
        pool.submit(run, value)
    for _ in range(2):
        with pytest.raises(ActorDiedError):
            pool.get_next(timeout=20)
    pool.push(Worker.remote())
    assert outcomes(pool, ordered=True) == [4, 6, 8]
    with pytest.raises(ActorDiedError, match="No living actor"):
        list(ActorPool([]).map(run, itertools.count()))


def test_an_actor_that_raises_does_not_get_all_work(cluster: Path, tmp_path: Path) -> None:
    pool = ActorPool([Worker.remote("raises"), Worker.remote()])
    for value in range(20):
        pool.submit(run, value)
    failed = [f for f in outcomes(pool, ordered=False) if isinstance(f, type)]
    assert 1 <= len(failed) <= 12  # a worker that starts late is behind
    assert outcomes(pool, ordered=True) == [] and pool.has_free()


def test_methods_with_several_returns_and_wrong_functions(cluster: Path) -> None:
    pool = ActorPool([Worker.remote(), Worker.remote()])
    call = lambda a, v: a.both.remote(v)  # noqa: E731
    assert list(pool.map(call, [1, 2, 3])) == [[1, -1], [2, -2], [3, -3]]
    assert sorted(pool.map_unordered(call, [1, 2, 3])) == [[1, -1], [2, -2], [3, -3]]
    with pytest.raises(TypeError, match="returns a ref"):
        pool.submit(lambda a, v: v, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda a, v: 1 // v, 0)
    assert list(pool.map(run, [1, 2])) == [2, 4]  # no actor was lost


def test_a_map_takes_values_as_actors_are_free_for_them(cluster: Path) -> None:
    made = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            made.append(number)
            yield number

    pool = ActorPool([Worker.remote(), Worker.remote()])
    for take in (pool.map, pool.map_unordered):
        found = take(run, endless())
        assert {next(found) for _ in range(5)} <= {2 * n for n in range(8)}
        assert len(made) <= 7
        made.clear()
        found.close()  # type: ignore[attr-defined]
    assert list(pool.map(run, [7])) == [14]

    def breaks() -> Iterator[int]:
        yield 1
        raise KeyError("of the user's")

    found = pool.map(run, breaks())
    assert next(found) == 2
    with pytest.raises(KeyError):
        next(found)


def test_a_wait_that_ends_early_loses_no_result(cluster: Path, tmp_path: Path) -> None:
    pool = ActorPool([Worker.remote(), Worker.remote()])
    gate = tmp_path / "gate"
    for value in range(3):
        pool.submit(lambda a, v: a.gate.remote(str(gate), v), value)
    for ignore in (False, True):
        with pytest.raises(TimeoutError):
            pool.get_next_unordered(timeout=0.01, ignore_if_timedout=ignore)
    with pytest.raises(TimeoutError, match="Timed out"):
        pool.get_next(timeout=0.01)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        pool.get_next()
    gate.touch()
    assert outcomes(pool, ordered=True) == [0, 1, 2]


def test_a_result_that_is_ignored_when_it_is_late_is_passed_over(
    cluster: Path, tmp_path: Path
) -> None:
    pool = ActorPool([Worker.remote()])
    gate = tmp_path / "gate"
    pool.submit(lambda a, v: a.gate.remote(str(gate), v), 1)
    pool.submit(run, 2)
    with pytest.raises(TimeoutError, match="has been ignored"):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    gate.touch()
    assert outcomes(pool, ordered=True) == [4]
