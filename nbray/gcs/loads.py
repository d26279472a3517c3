"""What the nodes said last of their load, and what those that have ended ran.

A node's load is replaced by its next report and dropped with the node; how many tasks it ran stays
in the sums. Nothing here is stored.
"""

from __future__ import annotations

from nbray.wire.state_messages import FunctionCounts, NodeLoad, TaskTotals

_MOST_NAMES = 10_000
_OTHERS = "(other functions)"

Counts = dict[str, tuple[int, int, int]]


class NodeLoads:
    """The last load of each node that lives, by its id."""

    def __init__(self) -> None:
        self._loads: dict[bytes, NodeLoad] = {}
        self._ended: Counts = {}

    def reported(self, node_id: bytes, load: NodeLoad) -> None:
        """A raylet's report came."""
        self._loads[node_id] = load

    def node_gone(self, node_id: bytes) -> None:
        """A node has ended: only what it ran still counts, names past `_MOST_NAMES` as one."""
        load = self._loads.pop(node_id, None)
        if load is None:
            return
        for name, counts in load.counts.items():
            known = name in self._ended or len(self._ended) < _MOST_NAMES
            _add(self._ended, name if known else _OTHERS, counts)

    def get(self, node_id: bytes) -> NodeLoad | None:
        """What a node that lives said last."""
        return self._loads.get(node_id)

    def ended(self) -> tuple[int, int]:
        """How many tasks have finished and failed since this process began."""
        counts = list(self._ended.values())
        for load in self._loads.values():
            counts.extend(load.counts.values())
        return sum(count[0] for count in counts), sum(count[1] for count in counts)

    def totals(self) -> TaskTotals:
        """How many tasks of each function have ended since this process began, the most first."""
        sums = dict(self._ended)
        for load in self._loads.values():
            for name, counts in load.counts.items():
                _add(sums, name, counts)
        rows = sorted(
            (FunctionCounts(name, *counts) for name, counts in sums.items()),
            key=lambda row: -(row.finished + row.failed + row.cancelled),
        )
        return TaskTotals(
            sum(row.finished for row in rows), sum(row.failed for row in rows),
            sum(row.cancelled for row in rows), rows,
        )  # fmt: skip


def _add(sums: Counts, name: str, counts: tuple[int, int, int]) -> None:
    finished, failed, cancelled = sums.get(name, (0, 0, 0))
    sums[name] = (finished + counts[0], failed + counts[1], cancelled + counts[2])
