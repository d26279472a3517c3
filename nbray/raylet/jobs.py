"""Jobs of which this node has drivers or workers, and where their drivers are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from nbray.common.background import Background
from nbray.raylet.delivery import deliver
from nbray.raylet.process import Process
from nbray.wire import gcs_messages as g
from nbray.wire import messages as m
from nbray.wire.grpc_service import GrpcClient, RefusedError, RpcError
from nbray.wire.records import JobConfig

logger = logging.getLogger(__name__)


class Jobs:
    """Drivers of this node, and the home of each job: the node of its driver.

    Args:
        node_id: this node.
        gcs: keeps the table of all jobs.
        on_joined: called with a driver that the GCS took in.
        end_workers: ends the workers of a job.
    """

    def __init__(
        self,
        node_id: bytes,
        gcs: GrpcClient,
        on_joined: Callable[[Process], None],
        end_workers: Callable[[bytes], Coroutine[Any, Any, None]],
    ) -> None:
        self._node_id = node_id
        self._gcs = gcs
        self._on_joined = on_joined
        self._end_workers = end_workers
        self._drivers: dict[bytes, Process] = {}
        self._homes: dict[bytes, bytes] = {}
        self._background = Background()

    def kept_by(self) -> list[str]:
        """The drivers of this node, in words."""
        return [f"the driver of job {job_id.hex()}" for job_id in self._drivers]

    def has_driver(self, worker_id: bytes) -> bool:
        """Whether the driver of that id is connected here."""
        return any(driver.worker_id == worker_id for driver in self._drivers.values())

    def note(self, job: JobConfig) -> None:
        """Something of a job is to run here: its workers end with its driver's node."""
        self._homes.setdefault(job.job_id, job.driver.node_id)

    async def register(self, process: Process, message: m.RegisterDriver) -> None:
        """Have the GCS make a job of a driver, which is answered by who was told ``on_joined``."""
        request = g.RegisterJob(
            message.address, message.namespace, message.entrypoint, message.pid, message.metadata
        )
        try:
            job = await self._gcs.call("RegisterJob", request, g.JobId)
        except RpcError as error:
            process.send(m.DriverRegistered(self._node_id, b"", "", "", 0, str(error)))
            if not isinstance(error, RefusedError):
                self._background.start(self._end_unanswered(request))
            return
        if process.closed:
            self._end(job.job_id)
            return
        process.worker_id, process.job_id = message.address.worker_id, job.job_id
        process.is_driver, process.pid = True, message.pid
        self._drivers[job.job_id] = process
        self._homes[job.job_id] = self._node_id
        self._on_joined(process)

    async def _end_unanswered(self, request: g.RegisterJob) -> None:
        """The GCS may have made a job before it fell silent, which nobody would end."""
        job = await deliver(self._gcs, "RegisterJob", request, "A driver that left", g.JobId)
        if job is not None:
            self._end(job.job_id)

    def driver_gone(self, process: Process, reason: str) -> None:
        """A driver has no connection any more: its job ends."""
        del self._drivers[process.job_id]
        logger.info("Job %s ended: its driver has gone (%s).", process.job_id.hex(), reason)
        self._end(process.job_id)

    def node_gone(self, node_id: bytes) -> None:
        """A node died: so did the jobs whose drivers it had."""
        for job_id, home in list(self._homes.items()):
            if home == node_id:
                self._end(job_id)

    def ended_elsewhere(self, job_id: bytes) -> None:
        """Another raylet lost the driver of a job, and says so to the GCS."""
        self._homes.pop(job_id, None)
        self._background.start(self._end_workers(job_id))

    def _end(self, job_id: bytes) -> None:
        self._homes.pop(job_id, None)
        self._background.start(self._finish(job_id))

    async def _finish(self, job_id: bytes) -> None:
        try:
            await self._end_workers(job_id)
        except Exception:  # the GCS ends what the job has elsewhere
            logger.exception("Not all workers of job %s were ended.", job_id.hex())
        what = f"The end of job {job_id.hex()}"
        await deliver(self._gcs, "FinishJob", g.JobId(job_id), what, g.Empty)

    async def warn(self, request: g.WarnJob) -> g.Empty:
        """Show a warning at the driver of a job, if it is here: something of its waits."""
        driver = self._drivers.get(request.job_id)
        if driver is not None:
            driver.warn(request.text, request.origin)
        return g.Empty()
