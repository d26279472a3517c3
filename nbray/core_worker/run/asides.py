"""What a task tells its notebook beside its output, and what the notebook answers.

It goes to the job's driver on the way of the output, behind what was printed before. A notebook is
behind a task whose `origin` is not 0: nobody else is told anything.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Protocol

from nbray.core_worker.identity import Identity
from nbray.core_worker.peers import Peers
from nbray.wire.connection import Connection
from nbray.wire.reactor import Reactor
from nbray.wire.records import OutputSource
from nbray.wire.waiting import Waiter
from nbray.wire.watching_messages import NotebookAnswers, TaskSays

_LOOK_S = 0.5


class Printing(Protocol):
    """The output of this worker, which goes first."""

    def source(self) -> OutputSource | None:
        """Of the task of this thread or coroutine; None: nothing runs."""

    def driver(self) -> Connection:
        """Send what was printed; returns the connection to the driver. Under the baton."""


class Asides:
    """The asides of one worker."""

    def __init__(self, me: Identity, reactor: Reactor, peers: Peers, output: Printing) -> None:
        self._me = me
        self._reactor = reactor
        self._output = output
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[Waiter, list[bytes]]] = {}
        self._lost = False
        peers.handlers[NotebookAnswers] = self._on_answer

    def source(self) -> OutputSource | None:
        """The task of this thread or coroutine, as its output has it."""
        return self._output.source()

    def tell(self, kind: str, content: bytes, source: OutputSource | None = None) -> bool:
        """Tell something, from any thread; False when there is no task of which to tell it.

        It may be lost, when the driver does not read what it is sent.
        """
        source = source or self._output.source()
        if source is None:
            return False
        message = TaskSays(source, self._me.worker_id, kind, content)
        self._reactor.post(lambda: self._send(message))
        return True

    def _send(self, message: TaskSays, always: bool = False) -> None:
        connection = self._output.driver()
        if connection.closed:
            self._lost = True
        elif always or not connection.congested:
            connection.send(message)

    def ask(
        self, kind: str, content: Callable[[int], bytes], seconds: float,
        is_wanted: Callable[[], bool],
    ) -> bytes | None:  # fmt: skip
        """Ask and wait; None when there will be no answer: its driver has gone, or time is over.

        Args:
            kind: of the content.
            content: what is asked, under the number that it is given.
            seconds: how long to wait.
            is_wanted: whether to go on waiting; asked twice a second.

        Raises:
            BaseException: what a signal's handler raises, as KeyboardInterrupt.
        """
        number = next(self._numbers)
        source = self._output.source()
        if source is None:
            return None
        waiter, answer = Waiter(), list[bytes]()
        self._waiting[number] = waiter, answer
        message = TaskSays(source, self._me.worker_id, kind, content(number))
        self._reactor.post(lambda: self._send(message, always=True))
        until = time.monotonic() + seconds
        try:
            while not answer and not self._lost and is_wanted() and time.monotonic() < until:
                self._reactor.wait(waiter, _LOOK_S)
                self._reactor.post(self._look)
        finally:
            self._waiting.pop(number, None)
        return answer[0] if answer else None

    def _look(self) -> None:
        self._lost = self._output.driver().closed

    def _on_answer(self, _driver: Connection, message: NotebookAnswers) -> None:
        waiting = self._waiting.get(message.number)
        if waiting is not None:
            waiter, answer = waiting
            answer.append(message.content)
            waiter.complete_one()
