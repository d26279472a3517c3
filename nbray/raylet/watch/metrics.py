"""The user's metrics of one node: what its processes have recorded, added up."""

from __future__ import annotations

import logging

from nbray.raylet.process import Process
from nbray.wire.gcs_messages import Empty
from nbray.wire.records import MetricRow
from nbray.wire.state_messages import NodeMetrics
from nbray.wire.watching_messages import MetricsRecorded

logger = logging.getLogger(__name__)

_MOST_SERIES = 20_000
_MOST_NAMED = 100
_WORKER = "worker_id"
_TAKEN = f"exported_{_WORKER}"  # what a program calls so

_Tags = tuple[tuple[str, str], ...]


class MetricTable:
    """Sums of counters and histograms; the last value of each process's gauges.

    A metric is what its first record said: one of that name and another kind, or with other
    boundaries, is left out, as is what would be more than `_MOST_SERIES`.
    """

    def __init__(self, node_id: bytes) -> None:
        self._node_id = node_id
        self._shapes: dict[str, tuple[str, list[float]]] = {}
        self._sums: dict[tuple[str, _Tags], MetricRow] = {}
        self._gauges: dict[tuple[Process, str, _Tags], MetricRow] = {}
        self._left_out: set[str] = set()
        self._dropped = 0

    def record(self, process: Process, message: MetricsRecorded) -> None:
        """Add up what a process has recorded."""
        for row in message.rows:
            shape = self._shapes.get(row.name)
            if shape is None:
                if not self._has_room(row.name):
                    continue
                shape = self._shapes[row.name] = row.kind, row.boundaries
            counts = len(row.boundaries) + 1 if row.kind == "histogram" else 0
            if shape != (row.kind, row.boundaries) or len(row.counts) != counts:
                self._leave_out(row.name, "it is another kind of metric elsewhere")
                continue
            tags = tuple(sorted(row.tags.items()))
            if row.kind == "gauge":
                self._set((process, row.name, tags), process.worker_id, row)
            else:
                self._add((row.name, tags), row)

    def _set(self, key: tuple[Process, str, _Tags], worker_id: bytes, row: MetricRow) -> None:
        if row.value is None:
            self._gauges.pop(key, None)
        elif key in self._gauges or self._has_room(row.name):
            tags = {_TAKEN if tag == _WORKER else tag: text for tag, text in row.tags.items()}
            row.tags = {**tags, _WORKER: worker_id.hex()}
            self._gauges[key] = row

    def _add(self, key: tuple[str, _Tags], row: MetricRow) -> None:
        known = self._sums.get(key)
        if known is not None:
            known.value = (known.value or 0.0) + (row.value or 0.0)
            known.counts = [a + b for a, b in zip(known.counts, row.counts, strict=True)]
        elif self._has_room(row.name):
            self._sums[key] = row

    def _has_room(self, name: str) -> bool:
        if max(len(self._sums) + len(self._gauges), len(self._shapes)) < _MOST_SERIES:
            return True
        self._leave_out(name, f"the node has {_MOST_SERIES} series of metrics already")
        return False

    def _leave_out(self, name: str, why: str) -> None:
        self._dropped += 1
        if name not in self._left_out and len(self._left_out) < _MOST_NAMED:
            self._left_out.add(name)
            logger.warning("A record of the metric %s is left out: %s.", name, why)

    def process_gone(self, process: Process) -> None:
        """A connection ended: its gauges have no value any more."""
        for key in [key for key in self._gauges if key[0] is process]:
            del self._gauges[key]

    async def list(self, _request: Empty) -> NodeMetrics:
        """All series."""
        return NodeMetrics(
            self._node_id, [*self._sums.values(), *self._gauges.values()], self._dropped
        )
