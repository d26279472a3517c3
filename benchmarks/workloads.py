"""The work itself, written against Ray's API; the engine is imported by name.

Run as ``python -m benchmarks.workloads`` by either engine's interpreter, with nothing but the
engine and NumPy. Each run is one workload in a fresh process with a cluster of its own. It
writes JSON lines to a pipe: ``{"row": name, "samples": [...]}``, ``{"missing": what}``, and
``{"probe": name}``, after which it waits for a line on standard input while the other side
measures the memory of the cluster. NumPy is imported by the work that needs it, so that the
memory of the others is the engine's.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import scale
from benchmarks.bench import Bench, MissingApi, expect, seconds_of
from benchmarks.between import objects_between_nodes, objects_over_sockets
from benchmarks.dask_graphs import dask_graphs

# --- objects --------------------


def small_objects(bench: Bench) -> None:
    engine = bench.engine
    bench.start()
    ref = engine.put(0)

    @engine.remote
    def put_100() -> None:
        for _ in range(100):
            engine.put(0)

    bench.rate("get small", lambda: engine.get(ref), gives=0)
    bench.rate("put small", lambda: engine.put(0))
    bench.rate(
        "put small, many clients", lambda: engine.get([put_100.remote() for _ in range(10)]), 1000
    )


def large_objects(bench: Bench) -> None:
    import numpy as np

    engine = bench.engine
    bench.start()
    array = np.zeros(bench.size(100 << 20), dtype=np.int64)
    length = bench.size(10 << 20)

    @engine.remote
    def put_10() -> None:
        for _ in range(10):
            engine.put(np.zeros(length, dtype=np.int64))

    bench.rate("put, GB/s", lambda: engine.put(array), array.nbytes / 1e9)
    bench.rate(
        "put, many clients, GB/s",
        lambda: engine.get([put_10.remote() for _ in range(10)]),
        100 * 8 * length / 1e9,
    )


def put_beside_a_copy(bench: Bench) -> None:
    """Puts and plain copies by turns, so that both see the same machine."""
    import numpy as np

    engine = bench.engine
    bench.start(object_store_memory=2 << 30)
    size = bench.size(400_000_000)
    array = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    target = np.zeros_like(array)
    for _ in range(3):  # every page of the store that will be used is touched once
        engine.put(array)
    puts, copies = [], []
    for _ in range(9):
        puts.append(size / 1e9 / seconds_of(lambda: engine.put(array)))
        copies.append(size / 1e9 / seconds_of(lambda: np.copyto(target, array)))
    expect((bool((engine.get(engine.put(array)) == target).all()), len(target)), (True, size))
    bench.report("put of 400 MB, warm", *puts)
    bench.report("NumPy copy of 400 MB", *copies)
    # Neighbours in time: what disturbs a put disturbs the copy beside it.
    parts = [put / copy for put, copy in zip(puts, copies, strict=True)]
    bench.report("put of 400 MB as part of a copy", float(np.median(parts)))


def many_refs(bench: Bench) -> None:
    engine = bench.engine
    bench.start()

    @engine.remote
    def small_value() -> bytes:
        return b"ok"

    @engine.remote
    def make_refs() -> list[Any]:
        return [engine.put(1) for _ in range(10_000)]

    holder = make_refs.remote()
    engine.get(holder)
    bench.rate("get object holding 10k refs", lambda: engine.get(holder))
    expect(engine.get(engine.get(holder)[-1]), 1)

    def wait_one_by_one() -> None:
        pending = [small_value.remote() for _ in range(1000)]
        fetch = True  # once is enough: Ray keeps the requests
        while pending:
            _, pending = engine.wait(pending, fetch_local=fetch)
            fetch = False

    bench.rate("wait on 1k refs one by one", wait_one_by_one)


def ten_thousand_arrays(bench: Bench) -> None:
    import numpy as np

    engine = bench.engine
    bench.start()
    engine.get(engine.put(np.zeros(10)))
    refs: list[Any] = []
    put = seconds_of(lambda: refs.extend(engine.put(np.zeros(10)) for _ in range(10_000)))
    bench.report("10,000 small arrays put", put)
    found: list[Any] = []
    bench.report("10,000 small arrays got", seconds_of(lambda: found.extend(engine.get(refs))))
    expect((len(found), sum(map(len, found))), (10_000, 100_000))


# --- tasks --------------------


def tasks(bench: Bench) -> None:
    engine = bench.engine
    bench.start()

    @engine.remote
    def small_value() -> bytes:
        return b"ok"

    def thousand() -> list[bytes]:
        return engine.get([small_value.remote() for _ in range(1000)])  # type: ignore[no-any-return]

    bench.rate("1,000 tasks and get", thousand, gives=[b"ok"] * 1000)
    bench.rate("tasks sync", lambda: engine.get(small_value.remote()), gives=b"ok")
    bench.rate("tasks async", thousand, 1000, gives=[b"ok"] * 1000)


def tails(bench: Bench) -> None:
    """In a program that has many objects, which the garbage collector walks."""
    engine = bench.engine
    bench.start()

    @engine.remote
    def small_value() -> bytes:
        return b"ok"

    actor, calls = _actor_class(engine).remote(), bench.size(20_000)
    kept = [[i] for i in range(200_000)]
    bench.tail("tasks sync", lambda: engine.get(small_value.remote()), calls)
    bench.tail("actor calls sync", lambda: engine.get(actor.small_value.remote()), calls)
    expect(len(kept), 200_000)


def tasks_of_many(bench: Bench) -> None:
    engine = bench.engine
    bench.start()

    @engine.remote
    def small_value() -> bytes:
        return b"ok"

    class Submitter:
        def run(self, count: int) -> int:
            return len(engine.get([small_value.remote() for _ in range(count)]))

    cls = engine.remote(num_cpus=0)(Submitter)
    submitters, count = [cls.remote() for _ in range(4)], bench.size(10_000)
    bench.rate(
        "tasks async, many clients",
        lambda: engine.get([s.run.remote(count) for s in submitters]),
        4 * count,
        gives=[count] * 4,
    )


def ten_thousand_arguments(bench: Bench) -> None:
    engine = bench.engine
    bench.start()

    @engine.remote
    def count(*values: int) -> int:
        return len(values)

    assert engine.get(count.remote(1)) == 1
    refs = [engine.put(i) for i in range(10_000)]
    bench.report(
        "10,000 ref arguments", seconds_of(lambda: expect(engine.get(count.remote(*refs)), 10_000))
    )


def three_thousand_returns(bench: Bench) -> None:
    engine = bench.engine
    bench.start()

    @engine.remote(num_returns=3000)
    def numbers() -> tuple[int, ...]:
        return tuple(range(3000))

    @engine.remote
    def ready() -> None:
        return None

    engine.get(ready.remote())
    bench.report(
        "3,000 returns", seconds_of(lambda: expect(engine.get(numbers.remote())[-1], 2999))
    )


def queued_tasks(bench: Bench) -> None:
    engine = bench.engine
    bench.start()

    @engine.remote
    def small_value(i: int) -> int:
        return i

    engine.get(small_value.remote(0))
    count = bench.size(100_000)
    refs: list[Any] = []
    submitted = seconds_of(lambda: refs.extend(small_value.remote(i) for i in range(count)))
    drained = seconds_of(lambda: expect(sum(engine.get(refs)), sum(range(count))))
    bench.report("100,000 queued tasks submitted", submitted)
    bench.report("100,000 queued tasks drained", drained)
    bench.report("100,000 queued tasks in all", submitted + drained)
    bench.probe("100,000 queued tasks")


# --- actors --------------------


def _actor_class(engine: Any) -> Any:
    @engine.remote(num_cpus=0)
    class Actor:
        def small_value(self) -> bytes:
            return b"ok"

        def small_value_arg(self, _x: int) -> bytes:
            return b"ok"

    return Actor


def _async_actor_class(engine: Any) -> Any:
    @engine.remote
    class AsyncActor:
        async def small_value(self) -> bytes:
            return b"ok"

        async def small_value_arg(self, _x: int) -> bytes:
            return b"ok"

    return AsyncActor


def _client_class(engine: Any) -> Any:
    @engine.remote(num_cpus=0)
    class Client:
        def __init__(self, *servers: Any) -> None:
            self._servers = servers

        def call(self, count: int) -> int:
            calls = [s.small_value.remote() for s in self._servers for _ in range(count)]
            return engine.get(calls).count(b"ok")  # type: ignore[no-any-return]

        def call_with_arg(self, count: int) -> int:
            x = engine.put(0)
            calls = [s.small_value_arg.remote(x) for s in self._servers for _ in range(count)]
            return engine.get(calls).count(b"ok")  # type: ignore[no-any-return]

    return Client


def _single_calls(bench: Bench, kind: str, cls: Any) -> None:
    engine = bench.engine
    one, two = cls.remote(), cls.remote()
    bench.rate(f"1:1 {kind} calls sync", lambda: engine.get(one.small_value.remote()), gives=b"ok")
    bench.rate(
        f"1:1 {kind} calls async",
        lambda: engine.get([two.small_value.remote() for _ in range(1000)]),
        1000,
        gives=[b"ok"] * 1000,
    )


def actor_calls(bench: Bench) -> None:
    engine = bench.engine
    bench.start()
    cls = _actor_class(engine)
    _single_calls(bench, "actor", cls)
    wide = cls.options(max_concurrency=16).remote()
    bench.rate(
        "1:1 actor calls concurrent",
        lambda: engine.get([wide.small_value.remote() for _ in range(1000)]),
        1000,
        gives=[b"ok"] * 1000,
    )


def async_actor_calls(bench: Bench) -> None:
    engine = bench.engine
    bench.start()
    cls = _async_actor_class(engine)
    _single_calls(bench, "async-actor", cls)
    actor = cls.remote()
    bench.rate(
        "1:1 async-actor calls with arg",
        lambda: engine.get([actor.small_value_arg.remote(i) for i in range(1000)]),
        1000,
        gives=[b"ok"] * 1000,
    )


def _calls_of_many(bench: Bench, kind: str, cls: Any) -> None:
    engine = bench.engine
    half = max(1, bench.cores // 2)
    servers = [cls.remote() for _ in range(half)]
    client = _client_class(engine).remote(*servers)
    bench.rate(
        f"1:n {kind} calls async",
        lambda: engine.get(client.call.remote(5000)),
        5000 * half,
        gives=5000 * half,
    )
    others = [cls.remote() for _ in range(half)]

    @engine.remote
    def work(actors: list[Any]) -> int:
        calls = [actors[i % half].small_value.remote() for i in range(5000)]
        return engine.get(calls).count(b"ok")  # type: ignore[no-any-return]

    bench.rate(
        f"n:n {kind} calls async",
        lambda: engine.get([work.remote(others) for _ in range(4)]),
        20_000,
        gives=[5000] * 4,
    )


def actor_calls_of_many(bench: Bench) -> None:
    engine = bench.engine
    bench.start()
    cls = _actor_class(engine)
    _calls_of_many(bench, "actor", cls)
    clients = [_client_class(engine).remote(cls.remote()) for _ in range(max(1, bench.cores // 2))]
    bench.rate(
        "n:n actor calls with arg",
        lambda: engine.get([c.call_with_arg.remote(1000) for c in clients]),
        1000 * len(clients),
        gives=[1000] * len(clients),
    )


def async_actor_calls_of_many(bench: Bench) -> None:
    bench.start()
    _calls_of_many(bench, "async-actor", _async_actor_class(bench.engine))


def actor_creation(bench: Bench) -> None:
    engine = bench.engine
    bench.start()
    cls = _actor_class(engine)

    def create_and_call() -> bytes:
        return engine.get(cls.remote().small_value.remote())  # type: ignore[no-any-return]

    bench.rate("actors created and called", create_and_call, gives=b"ok")


def twenty_actors(bench: Bench) -> None:
    engine = bench.engine
    bench.start()
    cls = _actor_class(engine)

    def create_and_call() -> None:
        actors = [cls.remote() for _ in range(20)]
        expect(engine.get([actor.small_value.remote() for actor in actors]), [b"ok"] * 20)

    bench.report("20 actors created and called", seconds_of(create_and_call))


def placement_groups(bench: Bench) -> None:
    create = bench.need("util.placement_group")
    remove = bench.need("util.remove_placement_group")
    if not callable(create):  # a module of that name without the function
        raise MissingApi(f"{bench.engine.__name__}.util.placement_group()")
    bench.start(resources={"custom": 100})

    def create_and_remove() -> None:
        groups = [create(bundles=[{"custom": 0.001}]) for _ in range(100)]
        for group in groups:
            expect(bool(group.wait(timeout_seconds=30)), True)
        for group in groups:
            remove(group)

    bench.rate("placement group create and remove", create_and_remove, 100)


# --- the cluster --------------------


def init(bench: Bench) -> None:
    bench.report("first init", seconds_of(bench.start))


def idle_memory(bench: Bench) -> None:
    engine = bench.engine
    bench.start()

    @engine.remote
    def small_value() -> bytes:
        return b"ok"

    engine.get([small_value.remote() for _ in range(1000)])
    time.sleep(3)  # idle is what is measured
    bench.probe("idle cluster")


WORKLOADS: dict[str, Callable[[Bench], None]] = scale.WORKLOADS | {
    work.__name__: work
    for work in (
        small_objects, large_objects, tasks, tasks_of_many, many_refs, actor_calls,
        actor_calls_of_many, async_actor_calls, async_actor_calls_of_many, placement_groups,
        actor_creation, init, twenty_actors, ten_thousand_arguments, three_thousand_returns,
        ten_thousand_arrays, queued_tasks, idle_memory, put_beside_a_copy, objects_between_nodes,
        objects_over_sockets, tails, dask_graphs,
    )
}  # fmt: skip


def main() -> None:
    """Run one workload."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    Bench.add_arguments(parser)
    args = parser.parse_args()
    engine = importlib.import_module(args.engine)
    bench = Bench(engine, args)
    bench.tell({"version": engine.__version__, "python": sys.version.split()[0]})
    try:
        WORKLOADS[args.workload](bench)
    except MissingApi as missing:
        bench.tell({"missing": str(missing)})
    finally:
        engine.shutdown()


if __name__ == "__main__":
    main()
