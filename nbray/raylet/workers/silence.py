"""Leases whose holders do not answer. Pure.

Who has a worker that others wait for gives it back as soon as it is idle; a process that stands
still (stopped, or held up for seconds by code that keeps the interpreter) does not. Nothing that it
says can show that, but its workers can: one that has begun nothing between two answers,
``patience_s`` apart, is of no use to its holder. It is taken back, and what else that
holder waits for is set aside until it speaks. A worker that runs a task is never taken, however
silent its holder is.
"""

from __future__ import annotations

from collections.abc import Iterable

from nbray.raylet.workers.lease import LeaseLife


class UnusedLeases:
    """Finds them, for one node.

    Args:
        patience_s: how long a wanted worker may be idle with one holder.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s

    def due(self, leases: Iterable[LeaseLife], now: float) -> list[LeaseLife]:
        """Those whose workers are to be asked now, while somebody waits."""
        before = now - self._patience_s / 2
        found = [x for x in leases if (x.wanted or x.asked is not None) and x.inquired <= before]
        for lease in found:
            lease.inquired = now
        return found

    def answered(self, lease: LeaseLife, idle: bool, begun: float, now: float) -> bool:
        """A worker says whether it is idle, and when it began its last task; whether to take it."""
        if not idle:
            lease.idle = None
        elif lease.idle is None or lease.idle[0] != begun:
            lease.idle = begun, now
        else:
            return now - lease.idle[1] >= self._patience_s
        return False
