"""A row measures the work that it names: the cluster itself says what was done."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import nbray
from benchmarks import engines, workloads
from benchmarks.bench import Bench
from benchmarks.rows import ROWS
from benchmarks.runner import APART, Effort, run
from nbray.testing import wait_until
from nbray.util.state import (
    list_nodes,
    list_placement_groups,
    summarize_actors,
    summarize_objects,
    summarize_tasks,
)

CALLS = 2
HALF = max(1, (os.cpu_count() or 1) // 2)
WARM = 4 * (os.cpu_count() or 1)
"""Tasks before the clock starts, so that the workers are there."""
LEAST_SPILLED = 30 * 10_000_000 - 200_000_000

EACH_CALL: Mapping[str, Mapping[str, int]] = {
    "get small": {},
    "put small": {},
    "put small, many clients": {"put_100": 10},
    "put, GB/s": {},
    "put, many clients, GB/s": {"put_10": 10},
    "1,000 tasks and get": {"small_value": 1000},
    "tasks sync": {"small_value": 1},
    "tasks async": {"small_value": 1000},
    "tasks async, many clients": {"small_value": 400, "Submitter.run": 4},
    "get object holding 10k refs": {},
    "wait on 1k refs one by one": {"small_value": 1000},
    "1:1 actor calls sync": {"Actor.small_value": 1},
    "1:1 actor calls async": {"Actor.small_value": 1000},
    "1:1 actor calls concurrent": {"Actor.small_value": 1000},
    "1:n actor calls async": {"Client.call": 1, "Actor.small_value": 5000 * HALF},
    "n:n actor calls async": {"work": 4, "Actor.small_value": 20_000},
    "n:n actor calls with arg": {
        "Client.call_with_arg": HALF, "Actor.small_value_arg": 1000 * HALF,
    },
    "1:1 async-actor calls sync": {"AsyncActor.small_value": 1},
    "1:1 async-actor calls async": {"AsyncActor.small_value": 1000},
    "1:1 async-actor calls with arg": {"AsyncActor.small_value_arg": 1000},
    "1:n async-actor calls async": {"Client.call": 1, "AsyncActor.small_value": 5000 * HALF},
    "n:n async-actor calls async": {"work": 4, "AsyncActor.small_value": 20_000},
    "placement group create and remove": {},
    "actors created and called": {"Actor.small_value": 1},
}  # fmt: skip
"""The tasks and calls of one call of a rate's work, with what is large at a hundredth."""

IN_ALL: Mapping[str, Mapping[str, int]] = {
    "tails": {"small_value": CALLS, "Actor.small_value": CALLS},
    "twenty_actors": {"Actor.small_value": 20},
    "ten_thousand_arguments": {"count": 2},
    "three_thousand_returns": {"ready": 1, "numbers": 1},
    "ten_thousand_arrays": {},
    "queued_tasks": {"small_value": 1001},
    "idle_memory": {"small_value": 1000},
    "init": {},
    "put_beside_a_copy": {},
    "million_tasks": {"number": 10_002, "hold": 1},
    "thousand_actors": {"Actor.number": 10},
    "ten_thousand_actors": {"Actor.ready": 1},
    "thousand_groups": {},
    "tree_reduction": {"leaf": 120, "total": 11},
    "overfull_store": {},
    "shuffle": {"split": 64, "join": 64 + WARM},
    "sort": {"make": 16, "sample": 16 + WARM, "cut": 16, "merge": 16},
    "broadcast": {"ends": 201},
}
"""The tasks and calls of a whole workload, with what is large at a hundredth."""

BETWEEN = {"objects_between_nodes", "objects_over_sockets"}
"""Workloads that end their cluster themselves: their tasks say what came, and where they ran."""


@dataclass
class Seen:
    """What the cluster said while one workload was measured."""

    called: dict[str, Counter[str]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    returned: dict[str, list[Any]] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    stored: dict[str, float] = field(default_factory=dict)
    spilled: dict[str, float] = field(default_factory=dict)
    actors: dict[str, int] = field(default_factory=dict)


class Counting(Bench):
    """Does each work a few times, and notes what the cluster says of it before anything ends."""

    def __init__(self, output_fd: int, scale: float = 0.01) -> None:
        super().__init__(
            nbray,
            argparse.Namespace(rows="", seconds=0.01, samples=1, scale=scale, output_fd=output_fd),
        )
        self.seen = Seen()

    def rate(
        self, row: str, work: Callable[[], Any], count: float = 1, *, gives: Any = ...
    ) -> None:
        before, objects, stored = done(), owned(), node("store_used")
        kept = [work() for _ in range(CALLS)]
        wanted = before + Counter({name: n * CALLS for name, n in EACH_CALL[row].items()})
        wait_until(lambda: done() >= wanted, f"{wanted} for {row!r}")
        if row == "put, GB/s":  # what a store holds is told now and then
            held = stored + CALLS * count * 1e9
            wait_until(lambda: node("store_used") >= held, f"{held} bytes in the store")
        self.seen.called[row] = done() - before
        self.seen.counts[row] = count
        self.seen.returned[row] = kept
        self.seen.objects[row] = owned() - objects
        self.seen.stored[row] = node("store_used") - stored
        if gives is not ...:
            assert kept == [gives] * CALLS

    def tail(self, row: str, work: Callable[[], Any], calls: int) -> None:
        assert calls == self.size(20_000)
        assert [work() for _ in range(CALLS)] == [b"ok"] * CALLS
        for kind in ("median", "99th percentile", "99.9th percentile", "longest"):
            self.report(f"{row}, {kind}", 1.0)

    def report(self, row: str, *samples: float) -> None:
        assert samples and min(samples) >= 0
        self.seen.returned[row] = list(samples)
        if nbray.is_initialized():
            self.seen.objects[row] = owned()
            self.seen.stored[row] = node("store_used")
            if row == "store filled ten times over, GB/s":  # told now and then
                wait_until(lambda: node("store_spilled") >= LEAST_SPILLED, "what was spilled")
            self.seen.spilled[row] = node("store_spilled")
            self.seen.actors[row] = summarize_actors()["cluster"]["total_actors"]

    def probe(self, name: str) -> None:
        """The runner measures the processes; here is none."""


def done() -> Counter[str]:
    """What has finished, by function, as the cluster counts it; actors are counted as such."""
    summary = summarize_tasks()["cluster"]["summary"]
    return Counter(
        {name: row["state_counts"]["FINISHED"] for name, row in summary.items()
         if "FINISHED" in row["state_counts"] and row["type"] != "ACTOR_CREATION_TASK"}
    )  # fmt: skip


def owned() -> int:
    return int(summarize_objects()["cluster"]["total_objects"])


def node(stat: str) -> float:
    return float(sum(row.stats[stat] for row in list_nodes() if row.state == "ALIVE"))


@pytest.fixture
def counting(session_root: Path) -> Counting:
    # Nobody reads what is told; what was seen is looked at.
    return Counting(os.open(os.devnull, os.O_WRONLY))


def test_what_every_row_does_is_said_here() -> None:
    rates = {row.workload for row in ROWS if row.name in EACH_CALL}
    told = rates | set(IN_ALL) | BETWEEN | {"grid_search", "dask_graphs"} | APART
    assert told == {row.workload for row in ROWS}
    assert {row.name for row in ROWS if row.workload in rates} == set(EACH_CALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "workload", sorted({row.workload for row in ROWS if row.name in EACH_CALL})
)
def test_a_rate_counts_what_the_cluster_did(counting: Counting, workload: str) -> None:
    workloads.WORKLOADS[workload](counting)
    seen = counting.seen
    assert set(seen.called) == {row.name for row in ROWS if row.workload == workload}
    for row, called in seen.called.items():
        called.pop("make_refs", None)  # it made what is got, and is counted a moment later
        assert called == {name: n * CALLS for name, n in EACH_CALL[row].items()}
        if called and "put" not in row and row != "1,000 tasks and get" and "wait" not in row:
            assert seen.counts[row] == max(EACH_CALL[row].values())
    if workload == "small_objects":
        assert seen.objects["put small"] == CALLS
        assert seen.counts["put small, many clients"] == 10 * 100
    elif workload == "large_objects":
        said = seen.counts["put, GB/s"] * 1e9 * CALLS
        assert said <= seen.stored["put, GB/s"] < said * 1.01
        assert seen.counts["put, many clients, GB/s"] == pytest.approx(
            8 * (10 << 20) / 1e9, rel=1e-4
        )
    elif workload == "many_refs":
        assert [len(refs) for refs in seen.returned["get object holding 10k refs"]] == [10_000] * 2
    elif workload == "placement_groups":
        gone = [group.state for group in list_placement_groups(limit=1000)]
        assert gone == ["REMOVED"] * 100 * CALLS
        assert seen.counts["placement group create and remove"] == 100
    elif workload == "actor_creation":
        assert summarize_actors()["cluster"]["total_actors"] == CALLS


@pytest.mark.slow
@pytest.mark.parametrize("workload", sorted(IN_ALL))
def test_work_that_is_done_once_is_what_the_cluster_did(counting: Counting, workload: str) -> None:
    workloads.WORKLOADS[workload](counting)
    seen, wanted = counting.seen, Counter(IN_ALL[workload])
    wait_until(lambda: done() >= wanted, f"{wanted}")
    assert done() == wanted
    reported = {
        row.name for row in ROWS
        if row.workload == workload and "peak" not in row.name and "idle" not in row.name
    }  # fmt: skip
    assert set(seen.returned) == reported
    if workload == "ten_thousand_arrays":
        assert seen.objects["10,000 small arrays put"] == 10_000
    elif workload == "put_beside_a_copy":
        assert seen.stored["put of 400 MB, warm"] < 200e6  # what was put is let go before the next
    elif workload == "thousand_actors":
        assert seen.actors["1,000 actors created and called"] == 10
    elif workload == "ten_thousand_actors":
        assert seen.actors["10,000 actors registered"] == 101
    elif workload == "thousand_groups":
        assert len(list_placement_groups(limit=1000)) == 10
    elif workload == "overfull_store":
        assert seen.spilled["store filled ten times over, GB/s"] >= LEAST_SPILLED
    elif workload == "twenty_actors":
        assert summarize_actors()["cluster"]["total_actors"] == 20


@pytest.mark.slow
def test_a_search_fits_as_often_as_the_row_says(counting: Counting) -> None:
    counting._scale = 0.1
    workloads.WORKLOADS["grid_search"](counting)
    wait_until(lambda: done().total() >= 2, "the batches of two searches")
    assert set(counting.seen.returned) == {"grid search of 60 fits"}


@pytest.mark.slow
def test_tasks_of_graphs_are_those_of_the_cluster(counting: Counting) -> None:
    """How many tasks a product is, is Dask's matter; its parts are 64 at least."""
    workloads.WORKLOADS["dask_graphs"](counting)
    wait_until(lambda: done()["dask:add"] >= 2 * 10, "the functions of two rounds")
    assert done()["dask:add"] == 2 * 10
    assert done().total() > 2 * 11 + 64
    assert set(counting.seen.returned) == {
        row.name for row in ROWS if row.workload == "dask_graphs"
    }


@pytest.mark.slow
@pytest.mark.parametrize("workload", sorted(BETWEEN | (APART - {"links"})))
def test_every_row_of_it_is_reported(workload: str, session_root: Path) -> None:
    """Its own checks say that what came is what was sent, and that nodes are the nodes it says."""
    outcome = run(engines.nbray(), workload, "", Effort(0.1, 1, scale=0.01, timeout_s=250))
    assert not outcome.problem and not outcome.missing and not outcome.left, outcome
    assert set(outcome.samples) == {row.name for row in ROWS if row.workload == workload}
    assert all(figure > 0 for figures in outcome.samples.values() for figure in figures)
