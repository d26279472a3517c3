"""How far the tasks of this program are, by function: for those who show progress."""

from __future__ import annotations

from collections.abc import Callable

from nbray.core_worker.current import find_core
from nbray.core_worker.tell.task_counts import FunctionCounts

__all__ = ["FunctionCounts", "request_counts"]


def request_counts(then: Callable[[list[FunctionCounts]], None]) -> bool:
    """Call ``then`` soon with a copy of the counts; False when there is no cluster.

    ``then`` runs on the thread that drives the sockets: it must return at once.
    """
    core = find_core()
    if core is None:
        return False
    # A timer comes after this turn's new tasks have been counted, posted work before.
    core.later(0.0, lambda: then(core.counts.snapshot(core.running_work())))
    return True
