"""The tasks of a queue that wait for a worker, in order. A million may, so each is three words.

A task that was just submitted, and has nothing of its own but its id and its arguments, is those
two, and a third that it shares with its burst. It becomes a `PendingTask` when a worker is to get
it, or when somebody asks for it. The others, with refs in their arguments or of another attempt,
stand here as they are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from itertools import compress

import msgspec

from nbray.core_worker.tasks import QUEUED, Burst, PendingTask

_AT_ONCE_S = 0.01


class Arrival(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What tasks of one burst have in common that came at once, behind the one at this time."""

    burst: Burst
    when: float

    def task(self, first: bytes, args: bytes) -> PendingTask:
        """One of them."""
        burst = self.burst
        return PendingTask(
            burst.options.retries, QUEUED, 0, self.when, first=first, args=args, burst=burst
        )


class Line:
    """Tasks in the order in which they are to run.

    Its three rows have the same length: the first object of each task, its arguments, and how it
    came, or the task itself.
    """

    __slots__ = ("_args", "_firsts", "_last", "_newest", "_ordered", "_whose")

    def __init__(self) -> None:
        self._firsts: deque[bytes] = deque()
        self._args: deque[bytes] = deque()
        self._whose: deque[Arrival | PendingTask] = deque()
        self._last: Arrival | None = None
        self._newest = b""
        self._ordered = True  # each id is greater than those before it

    def __len__(self) -> int:
        return len(self._firsts)

    def new(self) -> Iterator[tuple[bytes, Arrival]]:
        """The tasks that stand here by their parts alone, by their first objects."""
        for first, whose in zip(self._firsts, self._whose, strict=True):
            if isinstance(whose, Arrival):
                yield first, whose

    def add(self, burst: Burst, first: bytes, args: bytes, now: float) -> None:
        """A new task is the last."""
        last = self._last
        if not self._firsts:
            last, self._ordered = None, True
        if last is None or last.burst is not burst or now - last.when > _AT_ONCE_S:
            last = self._last = Arrival(burst, now)
        if first < self._newest:
            self._ordered = False
        self._newest = first
        self._firsts.append(first)
        self._args.append(args)
        self._whose.append(last)

    def append(self, task: PendingTask) -> None:
        """A task is the last."""
        self._ordered = False
        self._firsts.append(task.first)
        self._args.append(b"")
        self._whose.append(task)

    def appendleft(self, task: PendingTask) -> None:
        """A task is the next."""
        if not self._firsts or task.first > self._firsts[0]:
            self._ordered = False
        self._firsts.appendleft(task.first)
        self._args.appendleft(b"")
        self._whose.appendleft(task)

    def popleft(self) -> PendingTask:
        """The next task, which stands here no more."""
        first, args, whose = self._firsts.popleft(), self._args.popleft(), self._whose.popleft()
        return whose.task(first, args) if isinstance(whose, Arrival) else whose

    def may_repeat_next(self) -> bool:
        """Whether the next task may be run again."""
        if not self._whose:
            return False
        whose = self._whose[0]
        task = whose.burst.options if isinstance(whose, Arrival) else whose
        return task.retries != 0

    def origin_at(self, place: int) -> int:
        """The origin of the task at this place, or of the last one; 0 if there is none."""
        return self._whose[min(place, len(self._whose) - 1)].burst.origin if self._whose else 0

    def find(self, first: bytes) -> PendingTask | None:
        """The task that makes this object first, which is a `PendingTask` from now on."""
        place = self._place(first)
        if place < 0:
            return None
        whose = self._whose[place]
        if isinstance(whose, PendingTask):
            return whose
        task = self._whose[place] = whose.task(first, self._args[place])
        self._args[place] = b""
        return task

    def remove(self, first: bytes) -> None:
        """A task leaves, wherever it stands."""
        place = self._place(first)
        if place >= 0:
            del self._firsts[place], self._args[place], self._whose[place]

    def withdraw(self, wanted: Callable[[PendingTask], bool]) -> list[PendingTask]:
        """Those with arguments of their own that are ``wanted`` leave; they are returned."""
        withdrawn = [task for task in self._whose if isinstance(task, PendingTask) and wanted(task)]
        if withdrawn:
            gone = {task.first for task in withdrawn}
            stays = [first not in gone for first in self._firsts]
            self._firsts = deque(compress(self._firsts, stays))
            self._args = deque(compress(self._args, stays))
            self._whose = deque(compress(self._whose, stays))
        return withdrawn

    def _place(self, first: bytes) -> int:
        """Where a task stands; negative if it does not. Most stand in the order of their ids."""
        firsts = self._firsts
        place = bisect_left(firsts, first)
        if place < len(firsts) and firsts[place] == first:
            return place
        try:
            return -1 if self._ordered else firsts.index(first)
        except ValueError:
            return -1
