"""What else a user might pick: the rows that they can do, by their own means.

Run as ``python -m benchmarks.others WORKLOAD --engine NAME`` by an interpreter that has all of
them. A row is the same work as nbray's of that name, at the width of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.bench import Bench, MissingApi, expect, seconds_of
from benchmarks.dask_graphs import measure
from benchmarks.scale import grid_search_seconds

CORES = os.cpu_count() or 1


def small_value() -> bytes:
    """The task of most rows."""
    return b"ok"


def number(i: int) -> int:
    """The task of those that are many."""
    return i


Submit = Callable[..., Any]
"""``submit(function, *args)`` gives a future of the call."""


@contextlib.contextmanager
def _process_pool() -> Iterator[Submit]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(CORES) as pool:
        yield pool.submit


@contextlib.contextmanager
def _loky() -> Iterator[Submit]:
    from loky import get_reusable_executor

    pool = get_reusable_executor(max_workers=CORES)
    yield pool.submit
    pool.shutdown(wait=True)


@contextlib.contextmanager
def _dask() -> Iterator[Submit]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=CORES, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        # Dask takes equal calls for one, if it is not told.
        yield partial(client.submit, pure=False)


@contextlib.contextmanager
def _ipyparallel() -> Iterator[Submit]:
    import ipyparallel

    with ipyparallel.Cluster(n=CORES, log_level=40) as client:
        yield client.load_balanced_view().apply_async


def _result(future: Any) -> Any:
    get = getattr(future, "result", None) or future.get
    return get()


POOLS: dict[str, Callable[[], contextlib.AbstractContextManager[Submit]]] = {
    "processpool": _process_pool, "loky": _loky, "dask": _dask, "ipyparallel": _ipyparallel,
}  # fmt: skip
_DISTRIBUTIONS = {"loky": "loky", "dask": "distributed", "ipyparallel": "ipyparallel"}


def tasks(bench: Bench, submit: Submit) -> None:
    """The rows of `workloads.tasks`."""

    def thousand() -> None:
        futures = [submit(small_value) for _ in range(1000)]
        expect([_result(future) for future in futures], [b"ok"] * 1000)

    _result(submit(small_value))
    bench.rate("1,000 tasks and get", thousand)
    bench.rate("tasks sync", lambda: _result(submit(small_value)))
    bench.rate("tasks async", thousand, 1000)


def queued_tasks(bench: Bench, submit: Submit) -> None:
    """The rows of `workloads.queued_tasks`."""
    count = bench.size(100_000)
    _result(submit(number, 0))
    futures: list[Any] = []
    submitted = seconds_of(lambda: futures.extend(submit(number, i) for i in range(count)))
    drained = seconds_of(lambda: expect(sum(map(_result, futures)), sum(range(count))))
    bench.report("100,000 queued tasks submitted", submitted)
    bench.report("100,000 queued tasks drained", drained)
    bench.report("100,000 queued tasks in all", submitted + drained)


def init(bench: Bench, submit: Submit) -> None:
    """Reports nothing by itself: `main` has timed the start."""


def grid_search(bench: Bench, submit: Submit) -> None:
    """The row of `scale.grid_search`, by joblib's own backend."""
    bench.report("grid search of 60 fits", grid_search_seconds("loky", bench.size(60)))


def dask_graphs(bench: Bench, submit: Submit) -> None:
    """The rows of that name, by Dask's own cluster, which counts once it is there."""
    measure(bench, contextlib.nullcontext())


WORKLOADS: dict[str, Callable[[Bench, Submit], None]] = {
    work.__name__: work for work in (tasks, queued_tasks, init, grid_search, dask_graphs)
}


def main() -> None:
    """Run one workload by one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    Bench.add_arguments(parser)
    args = parser.parse_args()
    bench = Bench(args.engine, args)
    bench.tell({"version": _version(args.engine), "python": sys.version.split()[0]})
    made = POOLS[args.engine]()
    with contextlib.ExitStack() as stack:
        found: list[Submit] = []

        def start() -> None:
            found.append(stack.enter_context(made))
            _result(found[0](small_value))  # some start with the first task

        seconds = seconds_of(start)
        if args.workload == "init" and re.search(args.rows, "first init"):
            bench.report("first init", seconds)
        try:
            WORKLOADS[args.workload](bench, found[0])
        except MissingApi as missing:
            bench.tell({"missing": str(missing)})


def _version(name: str) -> str:
    from importlib import metadata

    distribution = _DISTRIBUTIONS.get(name)
    return metadata.version(distribution) if distribution else sys.version.split()[0]


if __name__ == "__main__":
    main()
