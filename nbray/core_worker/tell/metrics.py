"""What the user's metrics of this process have recorded since it was last told to the raylet.

Counters and histograms are told as what was added, gauges as they are, a batch each `_PERIOD_S`
while something is recorded. Before a process joins a cluster its records wait here.

A finalizer of the program or its handler of a signal may record, too, and come at any moment:
also in the middle of a record of the same thread, which holds the lock then. So that is one that a
thread may take again, and nothing that was read stays in use over what may let others in.
"""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_left

from nbray.core_worker.ports import Sink
from nbray.wire.records import MetricRow
from nbray.wire.watching_messages import MetricsRecorded

logger = logging.getLogger(__name__)

_PERIOD_S = 0.5
_MOST_SERIES = 10_000


class Recorded:
    """The records of one process; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._rows: dict[tuple[str, tuple[tuple[str, str], ...]], MetricRow] = {}
        self._telling: Sink | None = None
        self._warned = False

    def forget_in_fork(self) -> None:
        """A fork does not tell what its parent has recorded, which may be recording now."""
        self._lock = threading.RLock()
        self._rows.clear()
        self._telling = None

    def record(
        self, sink: Sink | None, kind: str, name: str, description: str,
        tags: dict[str, str], value: float | None, boundaries: list[float],
    ) -> None:  # fmt: skip
        """Add to a counter, set a gauge (None: it has no value any more), or observe."""
        key = (name, tuple(sorted(tags.items())))
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                if len(self._rows) >= _MOST_SERIES:
                    self._warn(name)
                    return
                counts = [0] * (len(boundaries) + 1) if kind == "histogram" else []
                new = MetricRow(kind, name, description, tags, None, boundaries, counts)
                row = self._rows.setdefault(key, new)
            if kind == "gauge":
                row.value = value
            else:
                row.value = (row.value or 0.0) + (value or 0.0)
            if kind == "histogram":
                row.counts[bisect_left(boundaries, value or 0.0)] += 1
            if sink is None or self._telling is sink:
                return
            self._telling = sink
        sink.later(_PERIOD_S, lambda: self._on_time(sink))

    def _on_time(self, sink: Sink) -> None:
        with self._lock:
            if self._telling is sink:
                self._telling = None
        self.tell(sink)

    def tell(self, sink: Sink) -> None:
        """Send what was recorded; under the baton."""
        with self._lock:
            rows, self._rows = self._rows, {}
        if rows:
            sink.to_raylet(MetricsRecorded(list(rows.values())))

    def _warn(self, name: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "More than %d series of metrics were recorded within %.1f s; those beyond are "
                "left out, the first of them of %r. Use tags with fewer values.",
                _MOST_SERIES, _PERIOD_S, name,
            )  # fmt: skip


recorded = Recorded()
os.register_at_fork(after_in_child=recorded.forget_in_fork)
