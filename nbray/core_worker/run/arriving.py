"""Arguments of a coroutine's call that are elsewhere: they come while its event loop goes on.

Small ones come with the call. Large ones may have to come from another node, or from the disk, or
be made again, and some are to be asked of their owners: `unpack`, in the thread of the loop, would
wait for that, and all other calls of the actor with it. So all that takes a wait is done before;
what is unpickled then, in that thread, is here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from nbray.core_worker.values.ahead import Arrived, Asked
from nbray.core_worker.values.reading import Values
from nbray.core_worker.values.stored import StoredValues
from nbray.wire.causes import CauseKind
from nbray.wire.records import Dependency, Stored, Value
from nbray.wire.waiting import Waiter


class _Coroutine(Waiter):
    """A coroutine that waits for one thing."""

    __slots__ = ("_loop", "_woken")

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    async def wait(self) -> None:
        """Until it is complete."""
        try:
            await self._woken
        finally:
            self.remaining = 0  # nobody waits any more: entries that are not complete drop it

    def complete_one(self) -> None:
        """It is there; any thread."""
        self.remaining -= 1
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)


class Arriving:
    """Has the arguments of calls come."""

    def __init__(self, values: Values, stored: StoredValues) -> None:
        self._values = values
        self._stored = stored

    async def all_of(self, dependencies: Sequence[Dependency]) -> Arrived | None:
        """Returns when all are here; None if nothing had to come.

        What is learnt of one is noted in it.
        """
        for dependency in dependencies:
            if dependency.value is None:
                dependency.value = await self._told_by_owner(dependency)
        large = [
            (dependency, value.stored)
            for dependency in dependencies
            if (value := dependency.value) is not None and value.stored is not None
        ]
        if not large:
            return None
        arrived = Arrived()
        coming: deque[tuple[Dependency, Asked]] = deque()
        size = 0
        for dependency, stored in large:
            while coming and size + stored.size > self._stored.most_ahead:
                size -= coming[0][1].stored.size
                await self._arrive(*coming.popleft(), arrived)
            coming.append((dependency, self._ask(dependency, stored)))
            size += stored.size
        while coming:
            await self._arrive(*coming.popleft(), arrived)
        return arrived

    async def _told_by_owner(self, dependency: Dependency) -> Value:
        object_id = dependency.object_id
        while True:
            waiter = _Coroutine()
            entry = self._values.when_known(object_id, dependency.owner, waiter)
            try:
                await waiter.wait()
                value = entry.value
            finally:
                self._values.let_go(object_id)
            if value is not None:  # it is not: it was lost again
                return value

    def _ask(self, dependency: Dependency, stored: Stored) -> Asked:
        asked = Asked(dependency.object_id, dependency.owner, stored, _Coroutine())
        self._stored.ask([asked])
        return asked

    async def _arrive(self, dependency: Dependency, asked: Asked, arrived: Arrived) -> None:
        """Until one is here; of one that has no copy any more, until it is made again."""
        tried: set[bytes] = set()
        while True:
            assert isinstance(asked.waiter, _Coroutine)
            await asked.waiter.wait()
            tried.update(asked.stored.node_ids)
            pin = asked.answers[0]
            cause = None if pin is None else pin.reply.cause
            newer = None
            if cause is not None and cause.kind is CauseKind.LOST:
                newer = await self._newer(dependency, list(tried))
            if newer is None:  # it is here, or whoever opens it says why not
                arrived.keep(asked)
                return
            dependency.value = newer
            if newer.stored is None:
                return
            asked = self._ask(dependency, newer.stored)

    async def _newer(self, dependency: Dependency, tried: list[bytes]) -> Value | None:
        waiter = _Coroutine()
        answer: list[Value | None] = []

        def then(value: Value | None) -> None:
            answer.append(value)
            waiter.complete_one()

        self._stored.find(dependency.object_id, dependency.owner, tried, then)
        await waiter.wait()
        return answer[0]
