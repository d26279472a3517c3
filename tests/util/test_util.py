"""nbray.util: pools, queues, iteration, and clusters for tests."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from pathlib import Path

import pytest

import nbray
from nbray.cluster_utils import Cluster
from nbray.util import ActorPool, as_completed, inspect_serializability, map_unordered
from nbray.util.executor import NbrayExecutor
from nbray.util.queue import Empty, Full, Queue


@nbray.remote
class Doubler:
    def double(self, value: float, until: Path | None = None) -> float:
        time.sleep(value / 100)
        while until is not None and not until.exists():
            time.sleep(0.01)
        return 2 * value


def test_an_actor_pool_maps_in_order_and_as_they_come(cluster: Path, tmp_path: Path) -> None:
    pool = ActorPool([Doubler.remote() for _ in range(2)])
    values = [3, 1, 2, 0, 4]
    assert list(pool.map(lambda a, v: a.double.remote(v), values)) == [6, 2, 4, 0, 8]
    found = list(pool.map_unordered(lambda a, v: a.double.remote(v), values))
    assert sorted(found) == [0, 2, 4, 6, 8]
    assert pool.has_free()
    pool.submit(lambda a, v: a.double.remote(v, tmp_path / "go"), 1)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.05)
    (tmp_path / "go").touch()
    assert pool.get_next(timeout=30) == 2
    with pytest.raises(StopIteration):
        pool.get_next()
    idle = pool.pop_idle()
    assert idle is not None
    pool.push(idle)
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(idle)


def test_a_queue_is_shared_between_tasks(cluster: Path) -> None:
    queue = Queue(maxsize=3)

    @nbray.remote
    def fill(queue: Queue, count: int) -> None:
        for i in range(count):
            queue.put(i)

    filling = fill.remote(queue, 10)
    assert [queue.get(timeout=30) for _ in range(10)] == list(range(10))
    nbray.get(filling, timeout=30)
    assert queue.empty()
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(timeout=0.05)
    queue.put_nowait_batch([1, 2, 3])
    assert queue.full()
    with pytest.raises(Full):
        queue.put(4, timeout=0.05)
    with pytest.raises(Full):
        queue.put_nowait_batch([4])
    with pytest.raises(Empty):
        queue.get_nowait_batch(4)
    assert queue.get_nowait_batch(3) == [1, 2, 3]
    with pytest.raises(ValueError, match="non-negative"):
        queue.get(timeout=-1)

    async def both() -> int:
        await queue.put_async(7)
        return int(await queue.get_async())

    assert asyncio.run(both()) == 7
    queue.shutdown()
    with pytest.raises(nbray.exceptions.ActorDiedError):
        queue.qsize()


def test_results_come_as_they_are_ready(cluster: Path) -> None:
    @nbray.remote
    def square(value: int) -> int:
        return value * value

    refs = [square.remote(i) for i in range(25)]
    assert sorted(as_completed(refs)) == [i * i for i in range(25)]
    assert set(as_completed(refs, yield_obj_refs=True)) == set(refs)
    found = map_unordered(square, range(50), backpressure_size=10, chunk_size=3)
    assert sorted(found) == [i * i for i in range(50)]
    one_by_one = map_unordered(square, range(5), backpressure_size=1)  # chunks are of 10
    assert list(one_by_one) == [i * i for i in range(5)]
    with pytest.raises(ValueError, match="chunk_size"):
        next(as_completed(refs, chunk_size=0))
    with pytest.raises(ValueError, match="must be positive"):
        next(map_unordered(square, [1], backpressure_size=0))
    for results in (as_completed(refs, num_returns=1), map_unordered(square, [1], num_returns=1)):
        with pytest.raises(ValueError, match="instead of `num_returns`"):
            next(results)


def test_what_cannot_be_sent_is_named_by_its_path() -> None:
    lock = threading.Lock()
    config = {"fine": 1, "inner": [1, {"lock": lock}]}
    out = io.StringIO()
    serializable, failures = inspect_serializability(config, name="config", print_file=out)
    assert not serializable
    assert {failure.name for failure in failures} == {"config['inner'][1]['lock']"}
    assert "config['inner'][1]['lock'] cannot be pickled" in out.getvalue()

    def uses_it() -> bool:
        return lock.locked()

    _, failures = inspect_serializability(uses_it, print_file=out)
    assert {failure.name for failure in failures} == {"uses_it.closure.lock"}
    assert inspect_serializability({"a": [1, 2]}, print_file=out) == (True, set())


def test_what_cannot_be_sent_is_named_when_it_is_submitted(cluster: Path) -> None:
    config = {"inner": {"lock": threading.Lock()}}

    @nbray.remote
    def uses_it() -> bool:
        return bool(config)

    @nbray.remote
    class Holder:
        kept = config

    @nbray.remote
    def takes(*values: object, **named: object) -> None: ...

    with pytest.raises(TypeError, match=r"uses_it.closure.config\['inner'\]\['lock'\]"):
        uses_it.remote()
    with pytest.raises(TypeError, match=r"Holder.kept\['inner'\]\['lock'\]"):
        Holder.remote()
    with pytest.raises(TypeError, match=r"\['argument 1'\]\['inner'\]\['lock'\]"):
        takes.remote(1, config)
    with pytest.raises(TypeError, match=r"\['by_name'\]\['inner'\]\['lock'\]"):
        takes.remote(by_name=config)


def test_an_executor_runs_calls_as_tasks(cluster: Path) -> None:
    with NbrayExecutor() as executor:
        assert executor.submit(pow, 2, 5).result(timeout=30) == 32
        assert list(executor.map(pow, range(10), [2] * 10, chunksize=3, timeout=30)) == [
            i * i for i in range(10)
        ]
        with pytest.raises(ZeroDivisionError):
            executor.submit(lambda: 1 / 0).result(timeout=30)
        with pytest.raises(TimeoutError):
            list(executor.map(time.sleep, [30], timeout=0.1))
        slow = executor.submit(time.sleep, 600)
        assert slow.cancel()
        assert slow.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 2)


def test_a_cluster_of_nodes_comes_and_goes(session_root: Path) -> None:
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
    try:
        far = cluster.add_node(num_cpus=1, resources={"far": 1})
        cluster.wait_for_nodes()
        where = nbray.remote(lambda: nbray.get_runtime_context().get_node_id())
        there = where.options(resources={"far": 1}).remote()
        assert nbray.get(there, timeout=30) == far.node_id
        assert nbray.cluster_resources()["CPU"] == 2
        cluster.remove_node(far, allow_graceful=False)
        cluster.wait_for_nodes()
        assert nbray.cluster_resources()["CPU"] == 1
    finally:
        cluster.shutdown()
