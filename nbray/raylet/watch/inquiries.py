"""Questions of a raylet to all of its processes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from nbray.raylet.process import Process
from nbray.wire.messages import Message
from nbray.wire.object_messages import ObjectsTold
from nbray.wire.watching_messages import StacksTold, TasksTold, TellTasks

_ANSWER_S = 2.0
_FLUSH_S = 0.1


class Inquiries:
    """Asks processes that have registered; what does not answer in time is known as missing."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._processes = processes
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[Process, asyncio.Future[Any]]] = {}

    async def ask_all(self, question: Callable[[int], Message]) -> list[tuple[Process, Any]]:
        """Every process with its answer, None when it gave none.

        Args:
            question: makes the message of a request's number.
        """
        asked = [process for process in self._processes if process.worker_id]
        return await self._ask(asked, question, _ANSWER_S)

    async def ask_one(
        self, worker_id: bytes, question: Callable[[int], Message], seconds: float
    ) -> Any:
        """The answer of one process; None when it is not there, or gave none in time."""
        for process in self._processes:
            if process.worker_id == worker_id:
                return await self._answer(process, question, seconds)
        return None

    def pid_of(self, worker_id: bytes) -> int | None:
        """The pid of a process that is connected."""
        found = (process.pid for process in self._processes if process.worker_id == worker_id)
        return next(found, None)

    async def flush(self, worker_ids: Iterable[bytes]) -> None:
        """Have workers report what they have recorded, before they are ended."""
        wanted = set(worker_ids)
        asked = [process for process in self._processes if process.worker_id in wanted]
        await self._ask(asked, lambda number: TellTasks(number, 0), _FLUSH_S)

    async def _ask(
        self, asked: list[Process], question: Callable[[int], Message], seconds: float
    ) -> list[tuple[Process, Any]]:
        answers = (self._answer(process, question, seconds) for process in asked)
        return list(zip(asked, await asyncio.gather(*answers), strict=True))

    async def _answer(
        self, process: Process, question: Callable[[int], Message], seconds: float
    ) -> Any:
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (process, future)
        process.send(question(number))
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]

    def answered(self, process: Process, answer: TasksTold | ObjectsTold | StacksTold) -> None:
        """A process answered."""
        asked, future = self._waiting.get(answer.request_id, (None, None))
        if asked is process and future is not None and not future.done():
            future.set_result(answer)

    def process_gone(self, process: Process) -> None:
        """A connection ended: nobody waits for its answer any more."""
        for asked, future in self._waiting.values():
            if asked is process and not future.done():
                future.set_result(None)
