"""The counts of this notebook's tasks, for whoever can wait a moment for them."""

from __future__ import annotations

import threading

from nbray.notebook import FunctionCounts, engine


def counts_now(seconds: float) -> list[FunctionCounts]:
    """Those of all cells; none when there is no cluster, or no answer within ``seconds``."""
    arrived = threading.Event()
    found: list[FunctionCounts] = []

    def take(counts: list[FunctionCounts]) -> None:
        found.extend(counts)
        arrived.set()

    if engine().tasks.counts(take):
        arrived.wait(seconds)
    return found
