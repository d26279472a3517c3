"""The head node's raylet starts the autoscaler, and starts it again when it ends.

It is a child that leaves with the raylet. One that ends soon after its start is started again after
a pause, which doubles up to `_LONGEST_PAUSE_S`: without it the cluster goes on as it is.
"""

from __future__ import annotations

import asyncio
import logging
import time

from nbray.common.config import Config
from nbray.common.process import Child, ProcessStartError, spawn
from nbray.common.session import Session
from nbray.raylet.beside.endings import Pause, end_of

logger = logging.getLogger(__name__)

_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_STABLE_S = 2.0


class AutoscalerSupervisor:
    """Keeps ``python -m nbray.autoscaler`` running, with the cluster's file."""

    def __init__(self, session: Session, gcs_address: str, file: str, config: Config) -> None:
        self._session = session
        self._gcs_address = gcs_address
        self._file = file
        self._config = config
        self._child: Child | None = None

    async def run(self) -> None:
        """Start and start again until cancelled."""
        pause = Pause(_PAUSE_S, _LONGEST_PAUSE_S, _STABLE_S)
        while True:
            child, lived_s = await self._start(), 0.0
            if child is not None:
                ready_at = time.monotonic()
                await end_of(child.pid)
                lived_s = time.monotonic() - ready_at
                logger.warning("The autoscaler has ended; it is started again.")
                await self._clear_away(child)
            await pause.after(lived_s)

    async def _start(self) -> Child | None:
        child = self._child = spawn(
            "nbray.autoscaler",
            ["--session-dir", str(self._session.path), "--gcs-address", self._gcs_address,
             "--config", self._file],
            self._session.log_path("autoscaler.log"), fate_shared=True,
        )  # fmt: skip
        try:
            await asyncio.to_thread(child.wait_ready, self._config.start_timeout_s)
        except ProcessStartError as error:
            logger.error("The autoscaler did not start: %s", error)
            await self._clear_away(child)
            return None
        logger.info("The autoscaler runs, pid %d.", child.pid)
        return child

    async def _clear_away(self, child: Child) -> None:
        """In a thread: one that stands still leaves only when it is killed, seconds later."""
        await asyncio.to_thread(child.terminate)
        self._child = None

    def stop(self) -> None:
        """End it, if it runs."""
        if self._child is not None:
            self._child.terminate()
            self._child = None
