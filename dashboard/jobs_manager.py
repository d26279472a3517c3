"""The process of the job manager: started with the first job, and again when it has ended."""

from __future__ import annotations

import asyncio
import logging
import time

from nbray.common.process import Child, spawn
from nbray.common.session import Session
from nbray.state.client import RpcError
from nbray.state.submissions import ENDED, LIVE, Submissions

logger = logging.getLogger(__name__)

_LOOK_S = 0.2
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_STABLE_S = 10.0


class ManagerProcess:
    """Keeps the job manager of a cluster running as long as there are jobs.

    Args:
        session: the head node's.
        gcs_address: "host:port".
        submissions: the rows, which say whether there are jobs.
    """

    def __init__(self, session: Session, gcs_address: str, submissions: Submissions) -> None:
        self._session = session
        self._gcs_address = gcs_address
        self._submissions = submissions
        self._wanted = asyncio.Event()
        self._states: tuple[str, ...] = ENDED + LIVE
        self._wanted.set()  # jobs, and supervisors, may have been left when the last one was killed

    def wanted(self) -> None:
        """There is something for it to do, also with the supervisors of ended jobs."""
        self._states = ENDED + LIVE
        self._wanted.set()

    async def run(self) -> None:
        """Start it whenever it is wanted; ends it when cancelled."""
        pause = 0.0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not await self._has_jobs():
                continue
            began = time.monotonic()
            try:
                child = self._start()
            except OSError as error:  # nothing is left for one: pages are shown all the same
                logger.error("The job manager is not started yet: %s", error)
                self._wanted.set()
                await asyncio.sleep(_PAUSE_S)
                continue
            self._states = LIVE
            try:
                while child.returncode is None:
                    await asyncio.sleep(_LOOK_S)
            finally:
                await asyncio.to_thread(child.terminate)
            self._wanted.set()  # it may have left just as a job came
            pause = (
                0.0
                if time.monotonic() - began > _STABLE_S
                else min(_LONGEST_PAUSE_S, max(_PAUSE_S, 2 * pause))
            )
            logger.info("The job manager has ended with %s.", child.returncode)
            await asyncio.sleep(pause)

    async def _has_jobs(self) -> bool:
        try:
            return any(row.state in self._states for row in await self._submissions.all())
        except RpcError as error:
            logger.warning("Whether there are jobs is not known: %s", error)
            self._wanted.set()
            await asyncio.sleep(_PAUSE_S)
            return False

    def _start(self) -> Child:
        child = spawn(
            "nbray.jobs",
            ["--session-dir", str(self._session.path), "--gcs-address", self._gcs_address],
            self._session.log_path("jobs.log"), fate_shared=True,
        )  # fmt: skip
        child.do_not_wait()
        logger.info("The job manager is started, pid %d.", child.pid)
        return child
