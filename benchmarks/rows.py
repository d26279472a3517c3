"""The rows of the table: what is measured, which way is better, and what is asked of nbray.

The rows up to the placement groups are the same work as `ray microbenchmark`, so that anybody's
figures of Ray compare; the others are the start-up, scale and memory that users meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Better(Enum):
    """Which way a row is better."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Row:
    """One measured quantity.

    Attributes:
        name: its line in the table.
        workload: what measures it: a function of `benchmarks.workloads`, or "commands".
        unit: of the figures.
        better: the good direction.
        times: how many times better than Ray it has to be; None asks nothing.
        limit: the worst figure that is good enough, whatever Ray needs; None asks nothing.
    """

    name: str
    workload: str
    unit: str = "1/s"
    better: Better = Better.HIGHER
    times: float | None = 10.0
    limit: float | None = None

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better ``ours`` is."""
        if self.better is Better.HIGHER:
            return ours / theirs if theirs else float("inf")
        return theirs / ours if ours else float("inf")

    def meets_limit(self, ours: float) -> bool:
        """Whether ``ours`` is good enough by itself."""
        if self.limit is None:
            return True
        return ours >= self.limit if self.better is Better.HIGHER else ours <= self.limit


def _seconds(
    name: str, workload: str, *, times: float | None = None, limit: float | None = None
) -> Row:
    return Row(name, workload, "s", Better.LOWER, times, limit)


def _megabytes(name: str, workload: str) -> Row:
    return Row(name, workload, "MB", Better.LOWER, None)


def _tail(name: str, workload: str) -> list[Row]:
    """What one in two, in a hundred and in a thousand takes longer than, and the longest."""
    kinds = ("median", "99th percentile", "99.9th percentile", "longest")
    return [Row(f"{name}, {kind}", workload, "ms", Better.LOWER, None) for kind in kinds]


def _part(name: str, workload: str, limit: float) -> Row:
    return Row(name, workload, "", times=None, limit=limit)


ONCE = frozenset(
    {"million_tasks", "queued_tasks", "sort", "shuffle", "overfull_store", "grid_search", "nodes"}
)
"""Workloads so long that one round is enough."""

SHORT_SCALES: Mapping[str, float] = {
    "million_tasks": 0.05, "queued_tasks": 0.2, "tails": 0.25, "tasks_of_many": 0.1,
    "ten_thousand_actors": 0.2, "sort": 0.25,
}  # fmt: skip
"""The part at which a run of bounded time measures what takes minutes at its whole size."""


ROWS: tuple[Row, ...] = (
    Row("get small", "small_objects"),
    Row("put small", "small_objects"),
    Row("put small, many clients", "small_objects"),
    Row("put, GB/s", "large_objects", "GB/s", times=None),
    Row("put, many clients, GB/s", "large_objects", "GB/s", times=None),
    Row("1,000 tasks and get", "tasks"),
    Row("tasks sync", "tasks"),
    Row("tasks async", "tasks"),
    Row("tasks async, many clients", "tasks_of_many"),
    Row("get object holding 10k refs", "many_refs"),
    Row("wait on 1k refs one by one", "many_refs"),
    Row("1:1 actor calls sync", "actor_calls"),
    Row("1:1 actor calls async", "actor_calls"),
    Row("1:1 actor calls concurrent", "actor_calls"),
    Row("1:n actor calls async", "actor_calls_of_many"),
    Row("n:n actor calls async", "actor_calls_of_many"),
    Row("n:n actor calls with arg", "actor_calls_of_many"),
    Row("1:1 async-actor calls sync", "async_actor_calls"),
    Row("1:1 async-actor calls async", "async_actor_calls"),
    Row("1:1 async-actor calls with arg", "async_actor_calls"),
    Row("1:n async-actor calls async", "async_actor_calls_of_many"),
    Row("n:n async-actor calls async", "async_actor_calls_of_many"),
    Row("placement group create and remove", "placement_groups"),
    Row("actors created and called", "actor_creation"),
    *_tail("tasks sync", "tails"),
    *_tail("actor calls sync", "tails"),
    _seconds("first init", "init", limit=0.4),
    _seconds("import", "imports", limit=0.12),
    _seconds("--help", "commands", limit=0.15),
    _seconds("start --head", "commands", limit=0.4),
    _seconds("second node", "commands"),
    _seconds("status", "commands"),
    _seconds("stop", "commands"),
    _seconds("20 actors created and called", "twenty_actors", limit=1.5),
    _seconds("1,000 actors created and called", "thousand_actors", limit=5.0),
    _seconds("10,000 ref arguments", "ten_thousand_arguments", times=10.0),
    _seconds("3,000 returns", "three_thousand_returns", times=10.0),
    _seconds("10,000 small arrays put", "ten_thousand_arrays", times=10.0),
    _seconds("10,000 small arrays got", "ten_thousand_arrays", times=10.0),
    _seconds("100,000 queued tasks submitted", "queued_tasks"),
    _seconds("100,000 queued tasks drained", "queued_tasks"),
    _seconds("100,000 queued tasks in all", "queued_tasks", times=10.0),
    _megabytes("100,000 queued tasks, peak of the driver", "queued_tasks"),
    _megabytes("100,000 queued tasks, peak of the GCS", "queued_tasks"),
    _megabytes("100,000 queued tasks, peak of the raylet", "queued_tasks"),
    _megabytes("idle cluster", "idle_memory"),
    _megabytes("idle cluster, shared memory", "idle_memory"),
    _megabytes("idle cluster, driver", "idle_memory"),
    _megabytes("idle cluster, GCS", "idle_memory"),
    _megabytes("idle cluster, raylet", "idle_memory"),
    _megabytes("idle cluster, dashboard", "idle_memory"),
    _megabytes("idle cluster, workers", "idle_memory"),
    _megabytes("idle cluster, template of workers", "idle_memory"),
    Row("idle cluster, part of a core", "idle_memory", "", Better.LOWER, None),
    Row("put of 400 MB, warm", "put_beside_a_copy", "GB/s", times=None),
    Row("NumPy copy of 400 MB", "put_beside_a_copy", "GB/s", times=None),
    Row("put of 400 MB as part of a copy", "put_beside_a_copy", "", times=None, limit=0.9),
    Row("plain connection, GB/s", "objects_between_nodes", "GB/s", times=None),
    Row("200 MB put and pushed to a node, GB/s", "objects_between_nodes", "GB/s", times=1.0),
    Row("200 MB to a node, GB/s", "objects_between_nodes", "GB/s", times=1.0),
    Row("200 MB to three nodes, GB/s", "objects_between_nodes", "GB/s", times=1.0),
    Row("forty results of 1 MB, GB/s", "objects_between_nodes", "GB/s", times=3.0),
    _part(
        "by sockets: 200 MB to a node as part of a plain connection", "objects_over_sockets", 0.6
    ),
    _part(
        "by sockets: 200 MB to three nodes as part of a plain connection",
        "objects_over_sockets",
        0.6,
    ),
    Row(
        "200 MB to three nodes, as times of one",
        "objects_between_nodes",
        "",
        Better.LOWER,
        None,
        2.0,
    ),
    Row("from afar: actor calls sync", "from_afar"),
    Row("from afar: actor calls async", "from_afar"),
    Row("from afar: tasks sync", "from_afar"),
    Row("from afar: tasks async", "from_afar"),
    Row("from afar: put small", "from_afar"),
    Row("from afar: get small", "from_afar"),
    Row("from afar: put, MB/s", "from_afar", "MB/s", times=None),
    Row("from afar: get, MB/s", "from_afar", "MB/s", times=None),
    Row("1,000,000 queued tasks, submitted per second", "million_tasks"),
    Row("1,000,000 queued tasks, drained per second", "million_tasks"),
    Row("1,000,000 queued tasks, bytes of each", "million_tasks", "B", Better.LOWER, None),
    _megabytes("1,000,000 queued tasks, MB kept afterwards", "million_tasks"),
    _seconds("10,000 actors registered", "ten_thousand_actors", times=5.0),
    Row("an actor of 10,000 found by its name", "ten_thousand_actors", times=5.0),
    _seconds("1,000 placement groups of two bundles", "thousand_groups", times=5.0),
    _part("tree of 10,000 tasks of 1 ms, part of the cores", "tree_reduction", 0.8),
    Row("store filled ten times over, GB/s", "overfull_store", "GB/s", times=1.0),
    Row("store filled ten times over, read back, GB/s", "overfull_store", "GB/s", times=1.0),
    Row("plain file, GB/s", "overfull_store", "GB/s", times=None),
    _part("store filled ten times over as part of a plain file", "overfull_store", 0.6),
    Row("shuffle of 2 GB in 64 parts, GB/s", "shuffle", "GB/s", times=1.0),
    Row("sort of 2 GB, GB/s", "sort", "GB/s", times=1.0),
    Row("400 MB read by 200 tasks, tasks per second", "broadcast", times=5.0),
    _seconds("grid search of 60 fits", "grid_search", times=1.0),
    _seconds("Dask array, product of 4,000 rows", "dask_graphs", times=1.0),
    _seconds("Dask delayed, 1,000 functions", "dask_graphs", times=5.0),
    _seconds("1,000 simulated nodes joined", "nodes"),
    Row("1,000 simulated nodes, idle, part of a core", "nodes", "", Better.LOWER, None),
    _seconds("1,000 simulated nodes, a change known to all", "nodes"),
    Row("plain connection at 40 ms, MB/s", "links", "MB/s", times=None),
    Row("100 MB at 40 ms, MB/s", "links", "MB/s", times=None),
    _part("100 MB at 40 ms as part of a plain connection", "links", 0.8),
    _part("from afar: put of 100 MB at 40 ms as part of a plain connection", "links", 0.8),
    _part("from afar: get of 100 MB at 40 ms as part of a plain connection", "links", 0.8),
    Row(
        "40 MB behind an uplink to three nodes, as times of one",
        "links",
        "",
        Better.LOWER,
        None,
        2.0,
    ),
)
