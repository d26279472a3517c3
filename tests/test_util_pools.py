"""multiprocessing's pool and joblib's work on the cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from joblib import Parallel, delayed, parallel_backend
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from nbray.util.joblib import register_nbray
from nbray.util.multiprocessing import Pool, TimeoutError


def test_a_pool_does_what_multiprocessings_does(cluster: Path) -> None:
    with Pool(2) as pool:
        assert pool.apply(pow, (2, 5)) == 32
        assert pool.map(abs, range(-10, 0)) == list(range(10, 0, -1))
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
        assert list(pool.imap(abs, [-3, 2, -1])) == [3, 2, 1]
        assert sorted(pool.imap_unordered(abs, range(-20, 0), chunksize=3)) == list(range(1, 21))
        assert pool.map(abs, []) == []
        with pytest.raises(ZeroDivisionError):
            pool.map(lambda i: 1 // i, [1, 0, 2])
        late = pool.apply_async(time.sleep, (0.5,))
        assert not late.ready()
        with pytest.raises(ValueError, match="not ready"):
            late.successful()
        with pytest.raises(TimeoutError):
            late.get(timeout=0.05)
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
    register_nbray()
    features, labels = load_iris(return_X_y=True)
    with parallel_backend("nbray"):
        assert Parallel()(delayed(pow)(i, 2) for i in range(20)) == [i * i for i in range(20)]
        places = set(Parallel()(delayed(os.getpid)() for _ in range(20)))
        search = GridSearchCV(SVC(), {"C": [0.1, 1, 10]}, cv=3).fit(features, labels)
        with pytest.raises(ZeroDivisionError):
            Parallel()(delayed(lambda i: 1 // i)(i) for i in range(3))
    assert os.getpid() not in places
    assert search.best_score_ > 0.9
