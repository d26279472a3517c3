"""The head node's raylet starts the dashboard again when it ends.

It holds the socket on which the dashboard listens, so that who asks meanwhile waits in its queue
and is answered by the next one. The first dashboard is started by whoever starts the node; its
successors are children of the raylet. One that ends at once is started again after a pause, which
grows: a cluster needs no dashboard.
"""

from __future__ import annotations

import asyncio
import logging
import time

from nbray.common.pids import start_time
from nbray.common.process import Child, spawn
from nbray.common.session import Session
from nbray.raylet.beside.endings import Pause, end_of

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STABLE_S = 10.0  # from its start, which takes some of it


class DashboardSupervisor:
    """Watches the dashboard on the listening socket ``listener``, which is ``url``."""

    def __init__(self, session: Session, gcs_address: str, listener: int, url: str) -> None:
        self._session = session
        self._gcs_address = gcs_address
        self._listener = listener
        self._url = url
        self._child: Child | None = None

    async def run(self) -> None:
        """Watch and restart until cancelled."""
        pid = await self._first()
        pause = Pause(_PAUSE_S, _LONGEST_PAUSE_S, _STABLE_S)
        while True:
            began = time.monotonic()
            if self._child is None:
                await end_of(pid, start_time(pid))
            else:
                while self._child.returncode is None:
                    await asyncio.sleep(_LOOK_S)
            await pause.after(time.monotonic() - began)
            logger.warning("The dashboard (pid %d) has ended; it is started again.", pid)
            self._start()
            assert self._child is not None
            self._session.replace_pid(pid, self._child.pid)
            pid = self._child.pid

    async def _first(self) -> int:
        """The dashboard that was started with the node, once the session tells of it."""
        while True:
            try:
                pids = self._session.read_info()["pids"]
            except (FileNotFoundError, ValueError):
                pids = []  # the node is starting
            if len(pids) > 2:
                return pids[2]
            await asyncio.sleep(_LOOK_S)

    def _start(self) -> None:
        self._child = spawn(
            "nbray.dashboard",
            ["--session-dir", str(self._session.path), "--gcs-address", self._gcs_address,
             "--url", self._url, "--listen-fd", str(self._listener)],
            self._session.log_path("dashboard.log"), fate_shared=True, pass_fds=[self._listener],
        )  # fmt: skip
        self._child.do_not_wait()

    def stop(self) -> None:
        """End the dashboard if it is a child of this process."""
        if self._child is not None:
            self._child.terminate()
