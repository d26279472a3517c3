"""The jobs of the cluster: one for each driver, kept with the newest thousand that ended."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

from nbray.common.ids import JobID
from nbray.gcs.storage import Store, Table
from nbray.wire import gcs_messages as g
from nbray.wire import state_messages as s
from nbray.wire.grpc_service import Handler

logger = logging.getLogger(__name__)

_ENDED_KEPT = 1000


class JobTable:
    """All jobs, and the GCS methods ``RegisterJob`` and ``ListJobs``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counters = Table(store, "counters", int)
        self._count = self._counters.all().get(b"jobs", 0)
        self._table = Table(store, "jobs", s.JobRow)
        self._jobs = dict(sorted(self._table.all().items()))
        ended = sorted((job for job in self._jobs.values() if job.ended), key=lambda job: job.ended)
        self._ended = deque(job.job_id for job in ended)

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "RegisterJob": (g.RegisterJob, self._register),
            "ListJobs": (g.Empty, self._list),
        }

    def is_over(self, job_id: bytes) -> bool:
        """Whether the driver has gone."""
        job = self._jobs.get(job_id)
        return job is None or bool(job.ended)

    def running(self) -> list[s.JobRow]:
        """The jobs whose drivers have not gone."""
        return [job for job in self._jobs.values() if not job.ended]

    async def _register(self, request: g.RegisterJob) -> g.JobId:
        """A number for a new driver."""
        driver = request.driver
        for job in self.running():
            if job.driver_id == driver.worker_id:
                return g.JobId(job.job_id)
        self._count += 1
        self._counters.put(b"jobs", self._count)
        logger.info("Job %d: %s (pid %d).", self._count, request.entrypoint, request.pid)
        job_id = JobID.from_int(self._count).binary()
        self._jobs[job_id] = s.JobRow(
            job_id, request.namespace, request.entrypoint, request.pid, driver.node_id,
            driver.host, time.time(), driver_id=driver.worker_id, metadata=request.metadata,
        )  # fmt: skip
        self._table.put(job_id, self._jobs[job_id])
        await self._store.durable()
        return g.JobId(job_id)

    def end(self, job_id: bytes) -> None:
        """A driver has gone; said once or more often."""
        job = self._jobs.get(job_id)
        if job is None or job.ended:
            return
        job.ended, job.state = time.time(), "SUCCEEDED"
        self._table.put(job_id, job)
        self._ended.append(job_id)
        if len(self._ended) > _ENDED_KEPT:
            oldest = self._ended.popleft()
            del self._jobs[oldest]
            self._table.delete(oldest)

    async def _list(self, _request: g.Empty) -> s.Jobs:
        return s.Jobs(list(self._jobs.values()))
