"""The dashboard is started by the head's raylet when somebody comes, and again when it ends.

The raylet holds the socket on which the dashboard listens, so who asks waits in its queue until the
process has come up, the first time and after each end. A cluster that nobody looks at has none of
its memory. The dashboard starts the manager of submitted jobs, so where a node is brought back that
may have some, it is started ``at_once``. One that ends soon is started again after a pause, which
grows: a cluster needs no dashboard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from nbray.common.process import Child, spawn
from nbray.common.session import Session
from nbray.raylet.beside.endings import Pause, end_of

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
_TELL_S = 10.0
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STABLE_S = 10.0  # from its start, which takes some of it


class DashboardSupervisor:
    """Keeps the dashboard on the listening socket ``listener``, which is ``url``.

    ``tell`` tells the GCS where it is, and whether that was heard.
    """

    def __init__(
        self, session: Session, gcs_address: str, listener: int, url: str, at_once: bool,
        tell: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        self._session = session
        self._gcs_address = gcs_address
        self._listener = listener
        self._url = url
        self._at_once = at_once
        self._tell = tell
        self._child: Child | None = None
        self._noted: int | None = None

    async def run(self) -> None:
        """Start and restart it until cancelled."""
        telling = asyncio.get_running_loop().create_task(self._keep_telling())
        try:
            await self._keep()
        finally:
            telling.cancel()

    async def _keep_telling(self) -> None:
        """A GCS that came back without a store has forgotten it."""
        while True:
            await asyncio.sleep(_TELL_S if await self._tell() else _LOOK_S)

    async def _keep(self) -> None:
        if not self._at_once:
            await self._somebody_comes()
            self._at_once = True  # also after an error: jobs wait for it, and who came has gone
        pause = Pause(_PAUSE_S, _LONGEST_PAUSE_S, _STABLE_S)
        while True:
            began = time.monotonic()
            child = self._child = self._start()
            await self._note(child.pid)
            await end_of(child.pid)
            await asyncio.to_thread(child.terminate)  # it has ended, and is reaped
            self._child = None
            await pause.after(time.monotonic() - began)
            logger.warning("The dashboard (pid %d) has ended; it is started again.", child.pid)

    async def _somebody_comes(self) -> None:
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        loop.add_reader(self._listener, came.set)
        try:
            await came.wait()
        finally:
            loop.remove_reader(self._listener)

    async def _note(self, pid: int) -> None:
        """Have the session folder tell of the process, once it tells of the node."""
        while True:
            try:
                self._session.note_pid(self._noted, pid)
                self._noted = pid
                return
            except (OSError, ValueError):
                await asyncio.sleep(_LOOK_S)  # the node is starting, or no file can be opened

    def _start(self) -> Child:
        child = spawn(
            "nbray.dashboard",
            ["--session-dir", str(self._session.path), "--gcs-address", self._gcs_address,
             "--url", self._url, "--listen-fd", str(self._listener)],
            self._session.log_path("dashboard.log"), fate_shared=True, pass_fds=[self._listener],
        )  # fmt: skip
        child.do_not_wait()
        return child

    def stop(self) -> None:
        """End the dashboard, if it runs."""
        if self._child is not None:
            self._child.terminate()
