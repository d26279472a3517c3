"""One connection of a raylet, with what the raylet knows of the process at its other end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbray.wire.aio import FrameConnection
from nbray.wire.messages import Message
from nbray.wire.state_messages import TaskSource
from nbray.wire.watching_messages import SchedulingWarning

logger = logging.getLogger(__name__)

_MOST_WARNINGS = 100


@dataclass(eq=False)
class Process:
    """A worker or driver of this node, or a submitter of another one.

    A submitter of another node never registers: it has leases here, and no ``worker_id``. It is
    ``silent`` while it does not answer, and others have got what it had.
    """

    connection: FrameConnection
    worker_id: bytes = b""
    job_id: bytes = b""
    is_driver: bool = False
    closed: bool = False
    pid: int = 0
    silent: bool = False
    source: TaskSource | None = None
    _warned: set[tuple[str, int]] = field(default_factory=set)

    @property
    def is_worker(self) -> bool:
        """Whether it is a registered worker of this node."""
        return bool(self.worker_id) and not self.is_driver

    def warn(self, text: str, origin: int = 0) -> None:
        """Have a warning about what has that origin shown at the process, once."""
        if (text, origin) not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add((text, origin))
            logger.warning("%s", text)
            self.send(SchedulingWarning(text, origin))

    def send(self, message: Message) -> None:
        """Queue a message; dropped when the process has gone."""
        if not self.closed:
            self.connection.send(message)


Handlers = Mapping[type[Message], Callable[[Process, Any], Coroutine[Any, Any, None] | None]]
"""What handles a message of a process; a coroutine runs in the background."""
