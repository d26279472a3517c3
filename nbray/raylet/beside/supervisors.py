"""Those who keep the processes beside a raylet, together."""

from __future__ import annotations

import asyncio
from typing import Protocol

from nbray.common.background import keep_on


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
        """Have one run, too; after an error, as where no process can be started, anew."""

        async def run() -> None:
            try:
                await supervisor.run()
            except Exception:
                try:
                    await asyncio.to_thread(supervisor.stop)  # it begins with no process
                except RuntimeError:  # there is no thread: all waits for that rather
                    supervisor.stop()
                raise

        self._all.append(supervisor)
        running = keep_on(run, type(supervisor).__name__)
        self._running.append(asyncio.get_running_loop().create_task(running))

    def look_away(self) -> None:
        """Start nothing any more."""
        for task in self._running:
            task.cancel()

    def stop(self) -> None:
        """End the processes, the last started first."""
        for supervisor in reversed(self._all):
            supervisor.stop()
