"""``nbray microbenchmark``: how fast this machine's nbray is, in the words of Ray's command."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from nbray.cli.terminal import say

_ROUND_S = 0.5
_ROUNDS = 3


def _rate(name: str, work: Callable[[], Any], times: float = 1) -> None:
    """Say how often a second something is done; the first time does not count."""
    work()
    rates = []
    for _ in range(_ROUNDS):
        began, count = time.perf_counter(), 0.0
        while (passed := time.perf_counter() - began) < _ROUND_S:
            work()
            count += times
        rates.append(count / passed)
    mean = sum(rates) / len(rates)
    spread = (max(rates) - min(rates)) / 2
    say(f"{name} per second {mean:,.2f} +- {spread:,.2f}")


@click.command()
def microbenchmark() -> None:
    """Start a cluster of its own, and measure puts, gets, tasks and calls of actors for a while."""
    import numpy as np  # a second that other commands do not pay

    import nbray

    @nbray.remote
    def small() -> bytes:
        return b"ok"

    class Actor:
        def call(self, *_values: object) -> bytes:
            return b"ok"

    nbray.init("local", include_dashboard=False)
    try:
        value = nbray.put(0)
        large = np.zeros(100 * 10**6, dtype=np.uint8)
        actor: Any = nbray.remote(num_cpus=0)(Actor).remote()
        _rate("single client get calls", lambda: nbray.get(value))
        _rate("single client put calls", lambda: nbray.put(0))
        _rate("single client put gigabytes", lambda: nbray.put(large), 0.1)
        _rate("single client tasks sync", lambda: nbray.get(small.remote()))
        _rate(
            "single client tasks async",
            lambda: nbray.get([small.remote() for _ in range(1000)]),
            1000,
        )
        _rate("1:1 actor calls sync", lambda: nbray.get(actor.call.remote()))
        _rate(
            "1:1 actor calls async",
            lambda: nbray.get([actor.call.remote() for _ in range(1000)]),
            1000,
        )
    finally:
        nbray.shutdown()
