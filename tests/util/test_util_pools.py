"""multiprocessing's pool and joblib's work on the cluster."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbray.exceptions import ActorDiedError, TaskError
from nbray.testing import wait_until
from nbray.util.joblib import register_nbray
from nbray.util.multiprocessing import Pool, PoolTaskError, TimeoutError


def test_a_pool_does_what_multiprocessings_does(cluster: Path, tmp_path: Path) -> None:
    with Pool(2) as pool:
        assert pool.apply(pow, (2, 5)) == 32
        assert pool.map(abs, range(-10, 0)) == list(range(10, 0, -1))
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
        assert list(pool.imap(abs, [-3, 2, -1])) == [3, 2, 1]
        assert sorted(pool.imap_unordered(abs, range(-20, 0), chunksize=3)) == list(range(1, 21))
        assert pool.map(abs, []) == []
        with pytest.raises(ZeroDivisionError):
            pool.map(lambda i: 1 // i, [1, 0, 2])
        late = pool.apply_async(wait_until, ((tmp_path / "go").exists, "the word to go on"))
        assert not late.ready()
        with pytest.raises(ValueError, match="not ready"):
            late.successful()
        with pytest.raises(TimeoutError):
            late.get(timeout=0.05)
        (tmp_path / "go").touch()
        late.wait(30)
        assert late.ready() and late.successful()
        heard: list[Any] = []
        pool.map_async(abs, [-1, -2], callback=heard.append)
        pool.apply_async(lambda: 1 // 0, error_callback=heard.append)
        wait_until(lambda: len(heard) == 2, "both callbacks")
        assert [1, 2] in heard
        assert any(isinstance(found, ZeroDivisionError) for found in heard)
        pids = set(pool.map(lambda _: os.getpid(), range(20), chunksize=1))
        assert len(pids) == 2
    with pytest.raises(ValueError, match="not running"):
        pool.apply(abs, (1,))


def test_processes_are_initialized_and_replaced(cluster: Path) -> None:
    def prepare(value: str) -> None:
        os.environ["POOL_VALUE"] = value

    pool = Pool(1, initializer=prepare, initargs=("set",), maxtasksperchild=2)
    calls = [pool.apply(lambda: (os.getpid(), os.environ["POOL_VALUE"])) for _ in range(4)]
    assert [value for _pid, value in calls] == ["set"] * 4
    assert len({pid for pid, _value in calls}) == 2
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    pool.join()


def test_a_grid_search_of_scikit_learn_runs_on_the_cluster(cluster: Path) -> None:
    # They take seconds to import, which all that collect these tests would have to.
    from joblib import Parallel, delayed, parallel_backend
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    register_nbray()
    features, labels = load_iris(return_X_y=True)
    with parallel_backend("nbray"):
        assert Parallel()(delayed(pow)(i, 2) for i in range(20)) == [i * i for i in range(20)]
        places = set(Parallel()(delayed(os.getpid)() for _ in range(20)))
        search = GridSearchCV(SVC(), {"C": [0.1, 1, 10]}, cv=3).fit(features, labels)
        with pytest.raises(ZeroDivisionError) as caught:
            Parallel()(delayed(lambda i: 1 // i)(i) for i in range(3))
        assert "by zero" in str(caught.value)
        assert "1 // i" in str(caught.value.__cause__), "where it was raised"
        large, small = np.arange(200_000.0), np.arange(1000.0)
        calls = [delayed(keep)(i, large, of=small, more=large) for i in range(30)]
        found = Parallel()(calls)
        alone = Parallel(mmap_mode="c")(calls)
    assert [number for number, *_ in found] == list(range(30))
    assert {total for _, total, *_ in found + alone} == {2 * large.sum() + small.sum()}
    assert all(len(places) == 1 for places in by_worker(found)), "a large array is sent once"
    assert any(len(places) > 1 for places in by_worker(alone))
    assert os.getpid() not in places
    assert search.best_score_ > 0.9


def keep(number: int, array: Any, of: Any, more: Any) -> tuple[int, float, int, int]:
    """So that no two arrays of a worker have one address."""
    kept = vars(sys).setdefault("kept", [])
    kept.append(array)
    address = array.__array_interface__["data"][0]
    return number, float(array.sum() + of.sum() + more.sum()), os.getpid(), address


def by_worker(found: list[tuple[int, float, int, int]]) -> list[set[int]]:
    places: dict[int, set[int]] = {}
    for _, _, pid, address in found:
        places.setdefault(pid, set()).add(address)
    return list(places.values())


class NoArguments(Exception):
    def __init__(self) -> None:
        super().__init__("there is no more")
        self.code = 3


class WithLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())


def inverse(value: int) -> int:
    return 12 // value


def shown(result: Any) -> Any:
    """A result, or the class of the exception that stands for it."""
    error = result.underlying if isinstance(result, PoolTaskError) else result
    return type(error).__name__ if isinstance(error, Exception) else result


@pytest.fixture(scope="module")
def pool(module_cluster: Path) -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


def test_an_error_stands_in_the_place_of_its_own_result_as_in_ray(pool: Pool) -> None:
    expected = [3, "ZeroDivisionError", 4, 12]
    results = list(pool.imap(inverse, [4, 0, 3, 1]))
    assert list(map(shown, results)) == expected
    assert isinstance(results[1], PoolTaskError)
    assert "return 12 // value" in str(results[1].underlying.__cause__)
    assert list(map(shown, pool.imap(inverse, [4, 0, 3, 1], chunksize=3))) == expected
    found = map(shown, pool.imap_unordered(inverse, [4, 0, 3, 1]))
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_next_takes_a_timeout_and_goes_on_after_it(pool: Pool, tmp_path: Path) -> None:
    def gated(value: int, gate: Path = tmp_path / "gate") -> int:
        while not gate.exists():
            time.sleep(0.01)
        return value

    for imap in (pool.imap, pool.imap_unordered):
        found = imap(gated, [1, 2, 3])
        if not (tmp_path / "gate").exists():
            with pytest.raises(TimeoutError):
                found.next(timeout=0.01)
            (tmp_path / "gate").touch()
        assert sorted(found) == [1, 2, 3]
        with pytest.raises(StopIteration):
            found.next()


def test_iterables_are_asked_as_results_come(pool: Pool) -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            made.append(number)
            yield -number

    for imap in (pool.imap, pool.imap_unordered):
        made.clear()
        found = imap(abs, endless(), chunksize=2)
        values = [next(found) for _ in range(4)]
        if imap == pool.imap:  # while the first process starts, the second one may go on
            assert values == [0, 1, 2, 3]
        else:
            assert len(made) <= 12
        asked = len(made)
        assert pool.map(abs, [-1, -2, -3, -4]) == [1, 2, 3, 4]
        assert len(made) == asked  # nobody asked for more

    def breaks() -> Iterator[int]:
        yield -1
        raise KeyError("of the user's")

    found = pool.imap(abs, breaks())
    assert next(found) == 1
    with pytest.raises(KeyError):
        next(found)
    with pytest.raises(StopIteration):
        next(found)
    with pytest.raises(TypeError):
        pool.imap(abs, 3)  # type: ignore[arg-type]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
            pool.imap(abs, [1], chunksize=wrong)
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
            pool.map(abs, [1], chunksize=wrong)


def raise_it(error: type[Exception], *args: Any) -> None:
    raise error(*args)


def test_errors_come_back_with_the_traceback_whatever_they_are(pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        pool.map(inverse, [1, 0])
    assert "return 12 // value" in str(caught.value.__cause__)
    assert "pool_results" not in str(caught.value.__cause__)
    with pytest.raises(NoArguments, match="there is no more") as other:
        pool.apply(raise_it, (NoArguments,))
    assert other.value.code == 3
    with pytest.raises(TaskError, match=r"WithLock: \('text'"):
        pool.apply(raise_it, (WithLock, "text"))
    with pytest.raises(TypeError, match="lock"):
        pool.apply(threading.Lock)
    assert pool.map(abs, [-1, 2]) == [1, 2]
    assert pool.apply(int, ("11",), {"base": 2}) == pool.apply(int, ("11",), kwds={"base": 2}) == 3


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(pool: Pool) -> None:
    for _ in range(3):
        with pytest.raises(ActorDiedError):
            pool.apply(os._exit, (1,))
    found = list(map(shown, pool.imap(die_at_two, range(8))))
    assert [value for value in found if value != "ActorDiedError"] == [0, 1, 3, 4, 5, 6, 7]
    assert len(set(pool.map(lambda _: os.getpid(), range(8), chunksize=1))) == 2


def die_at_two(value: int) -> int:
    if value == 2:
        os._exit(1)
    return value


def test_arguments_are_checked_and_processes_made_at_once(module_cluster: Path) -> None:
    with pytest.raises(ValueError, match="must be >0"):
        Pool(0)
    with pytest.raises(TypeError, match="must be a callable"):
        Pool(1, initializer=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive int"):
        Pool(1, maxtasksperchild=0)
    with pytest.raises(ValueError, match="only 2 CPUs"):
        Pool(3)
    with pytest.raises(ActorDiedError, match="ZeroDivisionError"):
        Pool(1, initializer=inverse, initargs=(0,))


def test_callbacks_are_called_before_a_result_is_ready(module_cluster: Path) -> None:
    heard: list[Any] = []

    def slowly(value: Any) -> None:
        time.sleep(0.2)
        heard.append(value)

    pool = Pool(2)
    assert pool.apply_async(abs, (-1,), callback=slowly).get() == 1
    assert heard == [1]
    pool.apply_async(inverse, (0,), callback=slowly, error_callback=slowly).wait()
    assert isinstance(heard.pop(), ZeroDivisionError)
    threads = threading.active_count()
    for number in range(1000):
        pool.apply_async(abs, (-number,), callback=heard.append)
    assert threading.active_count() < threads + 50
    begun = pool.imap(abs, range(-20, 0))
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.imap(abs, [1])
    pool.join()
    assert sorted(heard) == [0, 1, *range(1, 1000)]
    assert list(begun) == list(range(20, 0, -1))


def test_what_a_terminated_pool_had_to_do_fails(module_cluster: Path) -> None:
    pool = Pool(1)
    late = pool.map_async(time.sleep, [60, 60])
    begun = pool.imap(time.sleep, itertools.repeat(60))
    pool.terminate()
    pool.join()
    with pytest.raises(ActorDiedError):
        late.get(timeout=20)
    assert isinstance(begun.next(timeout=20), ActorDiedError)
    with pytest.raises(StopIteration):
        begun.next()
