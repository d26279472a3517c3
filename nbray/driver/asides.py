"""What tasks tell their notebook beside their output, and the notebook's answers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from nbray.core_worker.current import joined_core
from nbray.debugging.talk import NOBODY, STOPPED, read_stopped
from nbray.wire.watching_messages import NotebookAnswers, TaskSays

logger = logging.getLogger(__name__)

_handler: Callable[[TaskSays], None] | None = None


def set_aside_handler(handler: Callable[[TaskSays], None] | None) -> None:
    """Give asides to ``handler``, which runs under the baton; None: they are dropped."""
    global _handler
    _handler = handler


def deliver(message: TaskSays) -> None:
    """Hand one over. An error of the handler is logged: whoever waits goes on."""
    if _handler is None:
        if message.kind == STOPPED and (question := read_stopped(message.content).question):
            answer(message.worker_id, question, NOBODY)
        return
    try:
        _handler(message)
    except Exception:
        logger.exception("What %s told could not be taken", message.source.name)


def answer(worker_id: bytes, number: int, content: bytes) -> None:
    """Answer a worker, from any thread; one that has gone is not waited for."""
    core = joined_core()

    def send() -> None:
        worker = core.peers.find(worker_id)
        if worker is not None and not worker.closed:
            worker.send(NotebookAnswers(number, content))

    core.reactor.post(send)


def is_there(worker_id: bytes) -> bool:
    """Whether a worker that told something is still connected."""
    worker = joined_core().peers.find(worker_id)
    return worker is not None and not worker.closed
