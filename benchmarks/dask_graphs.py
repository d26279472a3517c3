"""Graphs of Dask's collections, computed by the engine in the place of Dask's own scheduler."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

from benchmarks.bench import Bench, expect, seconds_of


def dask_graphs(bench: Bench) -> None:
    """By the engine, through what it has at the path of ``ray.util.dask``."""
    enable = bench.need("util.dask.enable_dask_on_ray")
    bench.start()
    measure(bench, enable())


def measure(bench: Bench, scheduling: contextlib.AbstractContextManager[Any]) -> None:
    """The rows, by the scheduler that counts within ``scheduling``."""
    import dask.array as da
    from dask.delayed import delayed

    side, count = max(400, bench.size(4000)), bench.size(1000)

    def product() -> Any:
        ones = da.ones((side, side), chunks=(side // 8, side // 8))
        return (ones @ ones.T).sum().compute()

    def many() -> Any:
        increment = delayed(operator.add)
        return delayed(sum)([increment(i, 1) for i in range(count)]).compute()

    with scheduling:
        many()
        bench.report(
            "Dask array, product of 4,000 rows", seconds_of(lambda: expect(product(), side**3))
        )
        bench.report(
            "Dask delayed, 1,000 functions",
            seconds_of(lambda: expect(many(), sum(range(1, count + 1)))),
        )
