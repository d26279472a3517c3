"""Questions of a raylet to all of its processes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from nbray.raylet.leases import Process
from nbray.wire.messages import Message

_ANSWER_S = 2.0


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
        answers = await asyncio.gather(*(self._ask(process, question) for process in asked))
        return list(zip(asked, answers, strict=True))

    async def _ask(self, process: Process, question: Callable[[int], Message]) -> Any:
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (process, future)
        process.send(question(number))
        try:
            return await asyncio.wait_for(future, _ANSWER_S)
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]

    def answered(self, process: Process, number: int, answer: Message) -> None:
        """A process answered."""
        asked, future = self._waiting.get(number, (None, None))
        if asked is process and future is not None and not future.done():
            future.set_result(answer)

    def process_gone(self, process: Process) -> None:
        """A connection ended: nobody waits for its answer any more."""
        for asked, future in self._waiting.values():
            if asked is process and not future.done():
                future.set_result(None)
