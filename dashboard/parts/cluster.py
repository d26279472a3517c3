"""What pages ask the cluster, each question once however many look, and remembered for a moment.

The moment is a second, or longer when an answer takes long to read: the dashboard may not become
a load of its own. What nobody looks at is not asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from nbray.state import queries as q
from nbray.state.client import StateClient
from nbray.state.rows import (
    ActorState,
    DemandState,
    FailureState,
    NodeState,
    ObjectList,
    PlacementGroupState,
    TaskList,
    TaskTotals,
    WorkerState,
)

T = TypeVar("T")

_FRESH_S = 0.9
_SHARE = 25  # reading one kind of answer takes so small a part of the time at most
_MOST_KEPT = 64
TASK_LIMIT = 1000
_LEAST_ROWS = 20
OBJECT_LIMIT = 1000


@dataclass
class _Answer:
    value: Any
    until: float


class Cluster:
    """Asks by ``client``."""

    def __init__(self, client: StateClient) -> None:
        self.client = client
        self._answers: dict[object, _Answer] = {}
        self._asking: dict[object, asyncio.Task[Any]] = {}

    async def ask(self, query: q.Query[T], fresh_s: float = _FRESH_S) -> T:
        """The rows of a query, as fresh as that.

        Raises:
            RpcError: the GCS does not answer.
        """
        return await self.once((query.method, query.body), lambda: self._timed(query), fresh_s)

    async def _timed(self, query: q.Query[T]) -> tuple[T, float]:
        body = await self.client.fetch(query)
        began = time.thread_time()  # not by the clock: others may keep the processor busy
        return query.read(body), time.thread_time() - began

    async def once(
        self, key: object, make: Callable[[], Coroutine[Any, Any, tuple[T, float]]],
        fresh_s: float = _FRESH_S,
    ) -> T:  # fmt: skip
        """What ``make`` gives, which also tells its cost; those who ask meanwhile share it."""
        known = self._answers.get(key)
        if known is not None and known.until > time.monotonic():
            found: T = known.value
            return found
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._make(key, make, fresh_s))
            asking.add_done_callback(lambda _task: self._asking.pop(key, None))
        shared: T = await asyncio.shield(asking)
        return shared

    async def _make(
        self, key: object, make: Callable[[], Coroutine[Any, Any, tuple[T, float]]], fresh_s: float
    ) -> T:
        value, cost = await make()
        now = time.monotonic()
        if len(self._answers) >= _MOST_KEPT:
            self._answers = {k: kept for k, kept in self._answers.items() if kept.until > now}
        self._answers[key] = _Answer(value, now + max(fresh_s, _SHARE * cost))
        return value

    async def nodes(self) -> list[NodeState]:
        """All nodes, the living first."""
        return await self.ask(q.NODES)

    async def totals(self) -> TaskTotals:
        """Exact counts of tasks."""
        return await self.ask(q.TASK_TOTALS)

    async def workers(self) -> tuple[list[WorkerState], list[str]]:
        """Workers and drivers, and sentences on what is missing."""
        rows, unreachable = await self.ask(q.WORKERS)
        return rows, [f"Node {node_id[:8]} did not answer." for node_id in unreachable]

    async def actors(self) -> list[ActorState]:
        """All actors, the living first."""
        return await self.ask(q.ACTORS)

    async def groups(self) -> list[PlacementGroupState]:
        """Placement groups."""
        return await self.ask(q.PLACEMENT_GROUPS)

    async def demand(self) -> list[DemandState]:
        """What waits."""
        return await self.ask(q.DEMAND)

    async def failures(self) -> list[FailureState]:
        """Processes that ended although nobody meant them to, the newest first."""
        rows = await self.ask(q.FAILURES)
        return rows[::-1]

    async def tasks(self) -> TaskList:
        """Unfinished tasks and the last that ended, of each node: of many nodes, fewer of each."""
        return await self.ask(q.tasks(await self.task_limit()), 2.0)

    async def task_limit(self) -> int:
        """How many rows of tasks each node is asked for, so that all together are not too many."""
        nodes = sum(node.state == "ALIVE" for node in await self.nodes())
        return max(_LEAST_ROWS, TASK_LIMIT // max(1, nodes))

    async def objects(self) -> ObjectList:
        """The largest objects of each process."""
        return await self.ask(q.objects(OBJECT_LIMIT), 2.0)
