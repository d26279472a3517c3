"""Objects between the nodes of a cluster on one machine, beside a plain connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.bench import Bench, expect, seconds_of
from benchmarks.plain import PlainConnection


def objects_between_nodes(bench: Bench) -> None:
    """Transfers and a plain connection by turns, so that both see the same machine."""
    taken, gigabytes = _measured(bench)
    bench.report("plain connection, GB/s", gigabytes / taken["plain"])
    bench.report("200 MB put and pushed to a node, GB/s", gigabytes / taken["put and push"])
    bench.report("200 MB to a node, GB/s", gigabytes / taken["one"])
    bench.report("200 MB to three nodes, GB/s", 3 * gigabytes / taken["three"])
    bench.report("forty results of 1 MB, GB/s", 0.04 / taken["forty"])
    bench.report("200 MB to three nodes, as times of one", taken["three"] / taken["one"])


def objects_over_sockets(bench: Bench) -> None:
    """The same with nodes that use nothing that nodes of two machines have not."""
    os.environ["NBRAY_SHARE_MACHINE_MEMORY"] = "0"
    taken, _ = _measured(bench)
    bench.report(
        "by sockets: 200 MB to a node as part of a plain connection", taken["plain"] / taken["one"]
    )
    bench.report(
        "by sockets: 200 MB to three nodes as part of a plain connection",
        3 * taken["plain"] / taken["three"],
    )


def _measured(bench: Bench) -> tuple[dict[str, float], float]:
    """Medians of seconds by name, and the size of the large object in GB."""
    import numpy as np

    engine = bench.engine
    size, nodes, rounds = bench.size(200_000_000), 3, bench.times(7)
    common = {"num_cpus": 1, "object_store_memory": 1 << 30}
    cluster = bench.need("cluster_utils.Cluster")(
        initialize_head=True, connect=True, head_node_args=common
    )
    for number in range(nodes):
        cluster.add_node(resources={f"node{number}": 1}, **common)
    cluster.wait_for_nodes()

    @engine.remote
    def length(array: Any) -> int:
        return len(array)

    @engine.remote
    def make(count: int) -> Any:
        return np.ones(count, np.uint8)

    there = [length.options(resources={f"node{number}": 1}) for number in range(nodes)]
    makes = make.options(resources={"node0": 1})
    array = np.ones(size, np.uint8)
    engine.get([task.remote(engine.put(array)) for task in there for _ in range(2)])
    engine.get(makes.remote(1))
    plain = PlainConnection(size)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> None:
        seconds.setdefault(name, []).append(seconds_of(work))
        time.sleep(0.3)  # what was freed is free everywhere

    def push(tasks: list[Any], ref: Any) -> None:
        expect(engine.get([task.remote(ref) for task in tasks]), [size] * len(tasks))

    def fetch_forty() -> None:
        found = engine.get([makes.remote(1_000_000) for _ in range(40)])
        expect([len(one) for one in found], [1_000_000] * 40)

    for _ in range(rounds):
        timed("plain", plain.seconds)
        timed("put and push", lambda: push(there[:1], engine.put(array)))
        ref = engine.put(array)
        timed("one", partial(push, there[:1], ref))
        ref = engine.put(array)
        timed("three", partial(push, there, ref))
        del ref
        timed("forty", fetch_forty)
    engine.shutdown()
    cluster.shutdown()
    return {name: float(np.median(times)) for name, times in seconds.items()}, size / 1e9
