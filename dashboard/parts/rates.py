"""How fast the counts of functions grow, over the last seconds."""

from __future__ import annotations

import time
from collections import deque

from nbray.state.rows import TaskTotals

_WINDOW_S = 10.0
_SHORTEST_S = 0.8


class Rates:
    """Remembers the counts of the last seconds."""

    def __init__(self) -> None:
        self._known: deque[tuple[float, dict[str, int]]] = deque()

    def of(self, totals: TaskTotals) -> dict[str, float]:
        """Ended tasks a second by function; nothing before there are two moments."""
        now = time.monotonic()
        counts = {f.name: f.finished + f.failed + f.cancelled for f in totals.functions}
        if not self._known or now - self._known[-1][0] >= _SHORTEST_S:
            self._known.append((now, counts))
        while len(self._known) > 2 and now - self._known[0][0] > _WINDOW_S:
            self._known.popleft()
        then, before = self._known[0]
        if now - then < _SHORTEST_S:
            return {}
        return {
            name: max(0, number - before.get(name, 0)) / (now - then)
            for name, number in counts.items()
        }
