"""The port for remote drivers: the head's raylet holds it, and starts the gateway when one comes.

So a cluster to which nobody comes from afar pays a watched descriptor. The gateway is a process of
its own (``nbray.client.gateway``), started by name; when it has ended, which it does by itself when
no driver was there for a while, the next one that connects has it started again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from nbray.common.config import Config
from nbray.common.process import Child, ProcessStartError, spawn
from nbray.common.session import Session
from nbray.raylet.beside.endings import end_of

logger = logging.getLogger(__name__)

_PAUSE_S = 0.5


class ClientPort:
    """Starts the gateway on the listening sockets ``descriptors`` whenever it is needed."""

    def __init__(self, session: Session, descriptors: Sequence[int], config: Config) -> None:
        self._session = session
        self._descriptors = descriptors
        self._config = config
        self._child: Child | None = None

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            await self._somebody_comes()
            child = self._child = self._spawn()
            try:
                await asyncio.to_thread(child.wait_ready, self._config.start_timeout_s)
                logger.info("A driver comes from afar; its gateway is pid %d.", child.pid)
                await end_of(child.pid)
            except ProcessStartError as error:
                logger.error("The gateway of remote drivers did not start: %s", error)
            await asyncio.to_thread(child.terminate)
            self._child = None
            await asyncio.sleep(_PAUSE_S)  # one that always fails does not take the whole machine

    def _spawn(self) -> Child:
        words = [word for fd in self._descriptors for word in ("--listen-fd", str(fd))]
        return spawn(
            "nbray.client.gateway", ["--session-dir", str(self._session.path), *words],
            self._session.log_path("gateway.log"), fate_shared=True, pass_fds=self._descriptors,
        )  # fmt: skip

    async def _somebody_comes(self) -> None:
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        for fd in self._descriptors:
            loop.add_reader(fd, came.set)
        try:
            await came.wait()
        finally:
            for fd in self._descriptors:
                loop.remove_reader(fd)

    def stop(self) -> None:
        """End the gateway."""
        if self._child is not None:
            self._child.terminate()
