"""What the tasks of detached cells tell when they fail, for a debugger of whoever attaches."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from nbray.debugging.talk import (
    FAILED,
    NOBODY,
    STOPPED,
    Failed,
    encode,
    read_failed,
    read_stopped,
)
from nbray.notebook import TaskSays, engine

_MOST_BYTES = 2 << 20
_MOST_CELLS = 1000


class Witness:
    """Keeps the pictures of failures, by the number of their cell: the first ones, within bounds.

    The tasks themselves are not kept: they would hold what they read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[int, list[TaskSays]] = {}

    def take(self, message: TaskSays) -> None:
        """A task says something; on the thread that drives the sockets."""
        if message.kind == STOPPED:
            if question := read_stopped(message.content).question:
                engine().asides.answer(message.worker_id, question, NOBODY)
        elif message.kind == FAILED:
            picture = encode(Failed(read_failed(message.content).picture))
            with self._lock:
                told = self._told.setdefault(message.source.origin, [])
                size = sum(len(one.content) for one in told) + len(picture)
                if size <= _MOST_BYTES:
                    source = msgspec.structs.replace(message.source, origin=0)
                    told.append(TaskSays(source, b"", FAILED, picture))
                while len(self._told) > _MOST_CELLS:  # of cells that have been forgotten
                    del self._told[next(iter(self._told))]

    def of(self, number: int) -> bytes:
        """What was told of a cell that has ended, to be stored; b"" if that is nothing."""
        with self._lock:
            told = self._told.pop(number, [])
        return msgspec.msgpack.encode(told) if told else b""


def read(data: bytes) -> Sequence[TaskSays]:
    """What a `Witness` stored; nothing of what another nbray did."""
    try:
        return msgspec.msgpack.decode(data, type=list[TaskSays])
    except msgspec.DecodeError:
        return []
