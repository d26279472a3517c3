"""How fast counts grow, over the last seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Generic, TypeVar

from nbray.state.rows import TaskTotals

Key = TypeVar("Key")

_WINDOW_S = 10.0
_SHORTEST_S = 0.8


class Rates(Generic[Key]):
    """Remembers the counts of the last seconds."""

    def __init__(self) -> None:
        self._known: deque[tuple[float, Mapping[Key, int]]] = deque()

    def of(self, counts: Mapping[Key, int]) -> dict[Key, float]:
        """The growth a second of each; nothing before there are two moments."""
        now = time.monotonic()
        if not self._known or now - self._known[-1][0] >= _SHORTEST_S:
            self._known.append((now, counts))
        while len(self._known) > 2 and now - self._known[0][0] > _WINDOW_S:
            self._known.popleft()
        then, before = self._known[0]
        if now - then < _SHORTEST_S:
            return {}
        return {
            key: max(0, number - before.get(key, 0)) / (now - then)
            for key, number in counts.items()
        }


def ended(totals: TaskTotals) -> dict[str, int]:
    """How many tasks of each function have ended."""
    return {f.name: f.finished + f.failed + f.cancelled for f in totals.functions}
