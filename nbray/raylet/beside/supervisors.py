"""Those who keep the processes beside a raylet, together."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0


class Supervisor(Protocol):
    """Keeps one process."""

    async def run(self) -> None:
        """Start it and start it again, until cancelled."""

    def stop(self) -> None:
        """End it."""


class Supervisors:
    """They run from `start` on; all stop looking before the first of them ends its process."""

    def __init__(self) -> None:
        self._all: list[Supervisor] = []
        self._running: list[asyncio.Task[None]] = []

    def start(self, supervisor: Supervisor) -> None:
        """Have one run, too."""
        self._all.append(supervisor)
        self._running.append(asyncio.get_running_loop().create_task(_keep(supervisor)))

    def look_away(self) -> None:
        """Start nothing any more."""
        for task in self._running:
            task.cancel()

    def stop(self) -> None:
        """End the processes, the last started first."""
        for supervisor in reversed(self._all):
            supervisor.stop()


async def _keep(supervisor: Supervisor) -> None:
    """Run one, and again where nothing could be started: for want of descriptors, or memory.

    That passes, and nobody else would look after its process then.
    """
    while True:
        try:
            await supervisor.run()
        except OSError as error:
            name = type(supervisor).__name__
            logger.error("%s could not start a process, and tries again: %s", name, error)
            await asyncio.sleep(_AGAIN_S)
