"""Dask's collections on a cluster: values, what stays in the store, errors, and who watches."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback

import nbray
from nbray.testing import Gate, wait_until
from nbray.util import state
from nbray.util.dask import (
    ProgressBarCallback,
    RayDaskCallback,
    disable_dask_on_ray,
    enable_dask_on_ray,
    ray_dask_get,
    ray_dask_get_sync,
)


@pytest.fixture(scope="module")
def cluster(module_cluster: Path) -> Path:
    return module_cluster


@pytest.fixture(autouse=True)
def on_the_cluster(cluster: Path) -> Iterator[None]:
    with enable_dask_on_ray():
        yield


def objects_in_store() -> int:
    return len([one for one in state.list_objects() if one["object_size"] > 1_000_000])


@dask.delayed
def increment(x: Any) -> Any:
    return x + 1


@dask.delayed
def total(values: list[int]) -> int:
    return sum(values)


@dask.delayed
def pid(_x: Any = None) -> int:
    return os.getpid()


@dask.delayed
def fail(x: Any) -> Any:
    raise KeyError(x)


def test_collections_have_the_values_of_dasks_own_schedulers() -> None:
    numbers = da.arange(10_000, chunks=1000).reshape(100, 100).rechunk(30)
    squares = (numbers @ numbers.T).sum(axis=0)
    whole = np.arange(10_000).reshape(100, 100)
    assert (squares.compute() == (whole @ whole.T).sum(axis=0)).all()
    both = dask.compute(numbers.max(), {"of": [total([increment(i) for i in range(9)])]})
    assert both == (9999, {"of": [45]})
    assert total([increment(1), 5, increment(increment(2))]).compute() == 11
    assert pid().compute() != os.getpid()
    with disable_dask_on_ray():
        assert pid().compute(scheduler="synchronous") == os.getpid()
    assert pid().compute(scheduler=ray_dask_get_sync) != os.getpid()


def test_keys_are_given_as_they_are_nested_and_what_none_needs_does_not_run(
    tmp_path: Path,
) -> None:
    graph = {
        "a": 1, "b": (sum, ["a", "a"]), "alias": "b", ("c", 0): (max, "b", "alias", 7),
        "unneeded": ((tmp_path / "ran").touch,),
    }  # fmt: skip
    assert ray_dask_get(graph, [["b", "a"], ("c", 0)]) == ((2, 1), 7)
    assert ray_dask_get(graph, "alias") == 2
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["", "half \ud800", "two\nlines", "x" * 5000, 2**70])
def test_keys_may_be_odd(key: Any) -> None:
    assert ray_dask_get({key: (abs, -1), ("of", key): (abs, key)}, [("of", key)]) == (1,)


def test_what_is_persisted_stays_in_the_store_until_its_collection_goes() -> None:
    numbers = da.ones((4, 300_000), chunks=(1, 300_000))
    kept = (numbers + 1).persist()
    assert {type(value) for value in kept.__dask_graph__().values()} == {nbray.ObjectRef}
    assert (kept * 2).sum().compute() == 4 * 300_000 * 4
    assert total([kept[0].sum(), kept[1].sum()]).compute() == 2 * 300_000 * 2
    (again,) = dask.persist(kept.sum())
    assert again.compute() == 4 * 300_000 * 2
    wait_until(lambda: objects_in_store() == 4, "what no task needs any more to go")
    del kept, again
    wait_until(lambda: objects_in_store() == 0, "the rest to go with the collection")


def test_a_large_value_of_a_graph_is_put_once_and_refs_are_opened() -> None:
    large = np.ones(200_000)
    with RayDaskCallbackThatCounts() as seen:
        pieces = dask.delayed(large)
        assert total([(pieces * i).sum() for i in range(5)]).compute() == 10 * 200_000
    assert {type(need) for need in seen.needs if need is not None} == {nbray.ObjectRef}
    ref = nbray.put(41)
    assert increment(ref).compute() == 42
    assert total([ref, increment(ref)]).compute() == 83


class RayDaskCallbackThatCounts(RayDaskCallback):
    def __init__(self) -> None:
        super().__init__()
        self.needs: list[Any] = []

    def _ray_postsubmit(self, _task: Any, _key: Any, deps: dict[Any, Any], _ref: Any) -> None:
        self.needs += deps.values()


def twenty_that_wait(folder: Path) -> tuple[Gate, Path, list[Any]]:
    """Functions that wait at a gate, and leave a mark each behind it."""
    gate, marks = Gate(folder), folder / "marks"
    marks.mkdir()

    @dask.delayed
    def wait(i: int) -> int:
        gate.wait_here()
        (marks / str(i)).touch()
        return i

    return gate, marks, [wait(i) for i in range(20)]


def test_an_error_has_its_own_class_and_takes_along_what_waits(tmp_path: Path) -> None:
    gate, marks, waiting = twenty_that_wait(tmp_path)

    @dask.delayed
    def fail_when_they_wait(error: Exception) -> int:
        gate.wait_for(1)
        raise error

    with dask.annotate(ray_remote_args={"num_cpus": 0}):
        failing = fail_when_they_wait(KeyError("no such thing"))
    with pytest.raises(KeyError, match="no such thing") as caught:
        total([failing, *waiting]).compute()
    assert isinstance(caught.value, nbray.exceptions.RayTaskError)
    gate.open()
    assert increment(1).compute() == 2  # behind all that was not cancelled
    assert len(list(marks.iterdir())) < 4


def test_an_interrupt_takes_along_what_waits(tmp_path: Path) -> None:
    gate, marks, waiting = twenty_that_wait(tmp_path)

    def interrupt() -> None:
        gate.wait_for(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        total(waiting).compute()
    thread.join()
    gate.open()
    assert increment(1).compute() == 2
    assert len(list(marks.iterdir())) < 4


def test_hooks_are_called_at_each_step_here_and_in_the_workers(tmp_path: Path) -> None:
    folder = str(tmp_path)

    class Steps(RayDaskCallback):
        def __init__(self) -> None:
            super().__init__()
            self.submitted: list[str] = []
            self.all: list[Any] = []
            self.result: Any = None

        def _ray_presubmit(self, _task: Any, key: Any, _deps: Any) -> Any:
            return 100 if str(key) == "given" else None

        def _ray_postsubmit(self, _task: Any, key: Any, _deps: Any, ref: Any) -> None:
            assert isinstance(ref, nbray.ObjectRef)
            self.submitted.append(str(key))

        def _ray_postsubmit_all(self, refs: Any, graph: Any) -> None:
            self.all = [refs, set(graph)]

        def _ray_finish(self, result: Any) -> None:
            self.result = result

    def before(key: Any, values: Any) -> Any:
        return key, values

    def after(key: Any, result: Any, before: Any) -> None:
        Path(folder, f"{key}").write_text(f"{before} {result} {os.getpid()}")

    graph = {"given": (sum, [1]), "a": (abs, -3), "b": (max, "a", "given")}
    with Steps() as steps, RayDaskCallback(ray_pretask=before, ray_posttask=after):
        assert ray_dask_get(graph, ["b"]) == (100,)
    assert steps.submitted == ["a", "b"] and steps.result == (100,)
    assert steps.all[1] == {"given", "a", "b"}
    told, there = (tmp_path / "a").read_text().rsplit(" ", 1)
    assert told == "('a', ()) 3" and int(there) != os.getpid()
    assert not (tmp_path / "given").exists()
    assert ray_dask_get(graph, ["b"]) == (3,)  # nobody watches any more


def test_dasks_own_callbacks_see_tasks_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, list[Any]] = {"began": [], "ended": [], "over": []}

    class Watch(Callback):
        def _pretask(self, key: Any, dsk: Any, state: Any) -> None:
            seen["began"].append(key)

        def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
            seen["ended"].append((key, nbray.get(result)))

        def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
            seen["over"].append(errored)

    with Watch():  # type: ignore[no-untyped-call]
        ray_dask_get({"a": (abs, -3), "b": (abs, "a")}, "b")
        with pytest.raises(KeyError):
            fail(1).compute()
    assert seen["began"][:2] == ["a", "b"] and sorted(seen["ended"]) == [("a", 3), ("b", 3)]
    assert seen["over"] == [False, True]
    with ProgressBarCallback():
        total([increment(i) for i in range(10)]).compute()
    assert "100% Completed" in capsys.readouterr().out


def test_options_are_those_of_the_call_of_a_context_and_of_a_task() -> None:
    @dask.delayed
    def cpus() -> float:
        return float(nbray.get_runtime_context().get_assigned_resources().get("CPU", 0))

    with dask.annotate(ray_remote_args={"num_cpus": 2}):
        two = cpus()
    assert dask.compute(two, cpus()) == (2, 1)
    assert cpus().compute(ray_remote_args={"num_cpus": 0.5}) == 0.5
    with pytest.raises(ValueError, match="ray_remote_args"):
        cpus().compute(resources={"a": 1})
    with dask.annotate(resources={"a": 1}), pytest.raises(ValueError, match="ray_remote_args"):
        cpus().compute()


def test_many_tasks_of_several_threads_and_of_tasks_themselves() -> None:
    found: list[int] = []

    def work() -> None:
        graph: dict[Any, Any] = {("x", i): (abs, -i) for i in range(2000)}
        graph["sum"] = (sum, [("x", i) for i in range(2000)])
        found.append(ray_dask_get(graph, "sum"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sum(range(2000))] * 4

    @dask.delayed
    def inner(n: int) -> int:
        from nbray.util.dask import ray_dask_get

        value: int = total([increment(i) for i in range(n)]).compute(scheduler=ray_dask_get)
        return value

    assert total([inner(3), inner(4)]).compute() == 6 + 10
