"""Where the user's code is in many processes, all the time, as long as a page looks.

In rounds of two seconds each process is asked where its code was; of more than `_AT_ONCE`
processes others in each round. Slices of ten seconds are kept for five minutes. When no page has
looked for `_UNSEEN_S` seconds, nothing is asked any more and all is forgotten.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nbray.state import queries as q
from nbray.state.client import RpcError
from nbray.state.rows import WorkerState

from .cluster import Cluster

KEPT_S = 300.0
_ROUND_S = 2.0
_ANSWER_S = 5.0
_SLICE_S = 10.0
_UNSEEN_S = 12.0
_AT_ONCE = 32
_MOST_CHOICES = 4
_MOST_STACKS = 1000

Choice = tuple[str, str, str]
"""Kind of process, node and process; empty for any."""


@dataclass
class Seen:
    """What is known of a choice.

    Attributes:
        slices: milliseconds by stack, with when each slice began, the oldest first.
        processes: how many there are.
        asked: of how many the last round knew.
        silent: how many of those gave no answer.
        why: what one of them said instead.
    """

    slices: deque[tuple[float, Counter[str]]] = field(
        default_factory=lambda: deque(maxlen=int(KEPT_S / _SLICE_S))
    )
    processes: int = 0
    asked: int = 0
    silent: int = 0
    why: str = ""
    looked: float = 0.0

    def counts(self, last_s: float, now: float) -> Counter[str]:
        """Those of the last seconds, in slices as they are."""
        found: Counter[str] = Counter()
        for began, counts in self.slices:
            if began > now - last_s - _SLICE_S:
                found.update(counts)
        return found

    def add(self, now: float, counts: Counter[str]) -> None:
        """What a round has found."""
        if not self.slices or now - self.slices[-1][0] >= _SLICE_S:
            self.slices.append((now, Counter()))
        kept = self.slices[-1][1]
        kept.update(counts)
        if len(kept) > 2 * _MOST_STACKS:
            self.slices[-1] = (self.slices[-1][0], Counter(dict(kept.most_common(_MOST_STACKS))))


def chosen(workers: Sequence[WorkerState], choice: Choice) -> list[WorkerState]:
    """The processes of a choice that live; of kinds, those of workers that have work."""
    kind, node, process = choice
    kinds = {"task": ("BUSY",), "actor": ("ACTOR",)}.get(kind, ("BUSY", "ACTOR"))
    return [
        worker
        for worker in workers
        if worker.is_alive
        and (worker.worker_id == process if process else worker.activity in kinds)
        and (not node or worker.node_id.startswith(node))
    ]


class Continuous:
    """The choices that pages look at, at most `_MOST_CHOICES` together."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._watched: dict[Choice, Seen] = {}
        self._rounds: dict[Choice, asyncio.Task[None]] = {}
        self._turn = 0

    def start(self, choice: Choice) -> bool:
        """Begin to ask; False while too many others are looked at."""
        if choice not in self._watched:
            if len(self._watched) >= _MOST_CHOICES:
                return False
            seen = self._watched[choice] = Seen(looked=self._clock())
            self._rounds[choice] = asyncio.create_task(self._run(choice, seen))
        return True

    def look(self, choice: Choice) -> Seen | None:
        """What is known of it by now, and so it goes on; None if it was not begun, or has ended."""
        seen = self._watched.get(choice)
        if seen is not None:
            seen.looked = self._clock()
        return seen

    async def _run(self, choice: Choice, seen: Seen) -> None:
        try:
            while self._clock() - seen.looked < _UNSEEN_S:
                began = self._clock()
                try:
                    await self._round(choice, seen)
                except RpcError as error:
                    seen.why = str(error)
                await asyncio.sleep(max(0.1, began + _ROUND_S - self._clock()))
        finally:
            del self._watched[choice], self._rounds[choice]

    async def _round(self, choice: Choice, seen: Seen) -> None:
        workers, _missing = await self._cluster.workers()
        living = chosen(workers, choice)
        self._turn += _AT_ONCE
        first = self._turn % max(1, len(living))
        asked = (living[first:] + living[:first])[:_AT_ONCE]
        answers = await asyncio.gather(*(self._ask(worker) for worker in asked))
        counts: Counter[str] = Counter()
        errors = [answer for answer in answers if isinstance(answer, str)]
        for answer in answers:
            if not isinstance(answer, str):
                counts.update(answer)
        seen.processes, seen.asked, seen.silent = len(living), len(asked), len(errors)
        seen.why = errors[0] if errors else ""
        seen.add(self._clock(), counts)

    async def _ask(self, worker: WorkerState) -> dict[str, int] | str:
        """Milliseconds by stack, or why there are none."""
        query = q.profile(worker.node_id, worker.worker_id, _ROUND_S, False, working=True)
        try:
            found = await self._cluster.client.ask(query, _ROUND_S + _ANSWER_S)
        except RpcError as error:
            return str(error) or "The cluster does not answer."
        return found.error or found.counts
