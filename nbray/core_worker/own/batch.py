"""Refs that one reading of a value has made, counted together as far as they live together."""

from __future__ import annotations

from collections import deque

from nbray.object_ref import Wakes


class Batch:
    """The births and deaths of many refs, one of each of ``object_ids``.

    A value with ten thousand refs may be read again and again. As long as it holds the objects
    itself, nothing depends on the counts: births and deaths that nobody has counted can only make
    the count of an object greater than it seems. So they are counted when some object seems to be
    needed no more, and not at all if all refs of the reading have died by then.

    Attributes:
        object_ids: whose births have not been counted.
        died: takes the id of each ref that dies.
        held: the value in which the refs stand holds the objects, until its end is counted.
        counted: its births have been counted, or need not be.
        nudged: a death was told that nobody has looked at since.
    """

    __slots__ = ("_news", "_wakes", "counted", "died", "held", "nudged", "object_ids")

    def __init__(self, object_ids: tuple[bytes, ...], news: deque[Batch], wakes: Wakes) -> None:
        """``news``: where batches stand that are to be looked at; ``wakes``: who does it."""
        self.object_ids = object_ids
        self._news = news
        self._wakes = wakes
        self.died: deque[bytes] = deque()
        self.held = False
        self.counted = False
        self.nudged = False

    def nudge(self) -> None:
        """A ref has died; from any thread."""
        self.nudged = True
        self._news.append(self)
        if not self._wakes.nudged:
            self._wakes.nudge()
