"""The head node's raylet starts the GCS again when it ends.

The first GCS is a fork of the process that became the raylet (`nbray.head_node`), and whoever
started the node ends it; its successors are children of the raylet, too, with the same session
folder and port, and leave with the node's starter as it does.
One that ends soon after its start is started again after a pause, which doubles from `_PAUSE_S` up
to `_LONGEST_PAUSE_S`. When none comes up at all, the raylets leave for want of a GCS after
``gcs_rpc_server_reconnect_timeout_s``, and say so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress

from nbray.common.addresses import split
from nbray.common.config import Config
from nbray.common.pids import start_time
from nbray.common.process import Child, ProcessStartError, spawn
from nbray.common.session import Session
from nbray.raylet.beside.endings import Pause, end_of

logger = logging.getLogger(__name__)

_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
_STABLE_S = 2.0
_NOTE_AGAIN_S = 1.0


class GcsSupervisor:
    """Watches the GCS at ``address`` ("host:port"), whose process is ``pid``."""

    def __init__(
        self, session: Session, address: str, pid: int, parent_fd: int | None, config: Config
    ) -> None:
        self._session = session
        self._host, port = split(address)
        self._port = str(port)
        self._pid = self._noted = pid
        self._started: int | None = start_time(pid)
        self._parent_fd = parent_fd
        self._config = config
        self._child: Child | None = None

    async def run(self) -> None:
        """Watch and restart until cancelled."""
        pause = Pause(_PAUSE_S, _LONGEST_PAUSE_S, _STABLE_S)
        while True:
            began = time.monotonic()
            noting = asyncio.get_running_loop().create_task(self._note())
            try:
                await end_of(self._pid, self._started)
            finally:
                noting.cancel()
            with suppress(ChildProcessError):  # the first one may be a fork of this process
                os.waitpid(self._pid, os.WNOHANG)
            if self._child is not None:
                self._child.terminate()  # it has ended, and is reaped
                self._child = None
            await pause.after(time.monotonic() - began)
            logger.warning("The GCS (pid %d) has ended; it is started again.", self._pid)
            while not await self._start():
                await pause.after(0.0)

    async def _start(self) -> bool:
        child = spawn(
            "nbray.gcs",
            ["--session-dir", str(self._session.path), "--host", self._host, "--port", self._port],
            self._session.log_path("gcs.log"), fate_shared=False, parent_fd=self._parent_fd,
        )  # fmt: skip
        self._child = child
        before = time.monotonic()
        try:
            await asyncio.to_thread(child.wait_ready, self._config.start_timeout_s)
        except ProcessStartError as error:
            logger.error("The GCS did not come back: %s", error)
            await asyncio.to_thread(child.terminate)  # it may stand still
            self._child = None
            return False
        logger.info("The GCS is back in %.2f s, pid %d.", time.monotonic() - before, child.pid)
        self._pid, self._started = child.pid, None
        return True

    async def _note(self) -> None:
        """Have the session folder tell of it, by which a stop finds it; a disk may be full."""
        while self._noted != self._pid:
            try:
                self._session.note_pid(self._noted, self._pid)
                self._noted = self._pid
            except (OSError, ValueError) as error:
                logger.error("The session folder does not tell of this GCS yet: %s", error)
                await asyncio.sleep(_NOTE_AGAIN_S)

    def stop(self) -> None:
        """End the GCS that was started here; whoever started the first one ends it."""
        if self._child is not None:
            self._child.terminate()
