"""The job manager: sees to it that each job which has not ended has its supervisor, or fails.

It keeps nothing but the tasks that wait for supervisors, so a new one goes on where a killed one
was: it reads all rows, and makes or finds the supervisor of each by its name. Two of them at the
same time do no harm, since a job is claimed by one supervisor only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec

import nbray
from nbray.common.config import Config
from nbray.exceptions import (
    ActorUnschedulableError,
    NbrayError,
    RuntimeEnvSetupError,
)
from nbray.jobs.supervisor import JobSupervisor
from nbray.state.submissions import (
    LIVE,
    OWN_NAMESPACE,
    Submission,
    Submissions,
    supervisor_name,
)
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

_STARTED_AT_ONCE = 16
_SUPERVISOR: Any = nbray.remote(JobSupervisor)


class JobManager:
    """Cares for the jobs of one cluster.

    Args:
        submissions: the rows.
        gcs_address: for the jobs' drivers.
        head: the id of the head node, where jobs run that name no resources.
        config: how long a job may wait for its start, and this process for jobs.
    """

    def __init__(
        self, submissions: Submissions, gcs_address: str, head: str, config: Config
    ) -> None:
        self._submissions = submissions
        self._variables = {"NBRAY_ADDRESS": gcs_address, "RAY_ADDRESS": gcs_address}
        self._head = head
        self._config = config
        self._cared: dict[str, asyncio.Task[None]] = {}
        self._rows: dict[str, Submission] = {}
        self._starting = asyncio.Semaphore(_STARTED_AT_ONCE)
        self._idle_since = time.monotonic()

    async def run(self) -> None:
        """Care until there have been no jobs for a while.

        Raises:
            RpcError: the GCS has been away for a minute.
        """
        async for rows in self._submissions.changes():
            for row in rows:
                self._see(row)
            if self._cared:
                self._idle_since = time.monotonic()
            elif time.monotonic() - self._idle_since > self._config.job_manager_idle_s:
                logger.info("There have been no jobs for a while; the manager leaves.")
                return

    def _see(self, row: Submission) -> None:
        submission_id = row.submission_id
        if row.state in LIVE:
            self._rows[submission_id] = row
            if submission_id not in self._cared:
                task = asyncio.get_running_loop().create_task(self._care(row))
                self._cared[submission_id] = task
                task.add_done_callback(lambda _task: self._cared.pop(submission_id, None))
            if row.state == "STOPPING":
                self._have_stopped(submission_id)
        else:
            self._rows.pop(submission_id, None)
            if not row.attempt and submission_id in self._cared:
                self._have_stopped(submission_id)  # it never ran, and must not come up

    def _have_stopped(self, submission_id: str) -> None:
        stopping = asyncio.get_running_loop().create_task(self._stop(submission_id))
        self._cared[f"stop {submission_id}"] = stopping
        stopping.add_done_callback(lambda _task: self._cared.pop(f"stop {submission_id}", None))

    async def _stop(self, submission_id: str) -> None:
        row = self._rows.get(submission_id)
        try:
            handle = await asyncio.to_thread(_find, submission_id)
            if row is not None:
                await handle.stop.remote()
            else:
                nbray.kill(handle)
        except (NbrayError, ValueError) as error:
            logger.info("The supervisor of %s is not there to stop it: %s", submission_id, error)

    async def _care(self, row: Submission) -> None:
        """Have a job run, and say why it does not, as long as it has not ended."""
        submission_id = row.submission_id
        error: Exception | None = None
        handle: Any = None
        try:
            async with self._starting:
                handle = await asyncio.to_thread(self._supervisor, row)
                call = handle.run.remote(msgspec.msgpack.encode(row), self._variables)
                await self._wait_for_start(submission_id, call)
            await call
        except (NbrayError, ValueError) as raised:
            error = raised
        except TimeoutError:
            error = TimeoutError(
                f"Job supervisor actor failed to start within "
                f"{self._config.job_start_timeout_s:g} seconds. This timeout can be changed by "
                "the variable NBRAY_JOB_START_TIMEOUT_S of the head node."
            )
        if error is not None:
            now = await self._submissions.get(submission_id)
            if now is not None and now.state in LIVE:
                await self._fail(now, error)
        if handle is not None:
            nbray.kill(handle)

    def _supervisor(self, row: Submission) -> Any:
        """The supervisor of a job, who may be there from before; a claimed one is not made anew."""
        if row.state != "PENDING":
            return _find(row.submission_id)
        amounts = dict(row.amounts)
        options: dict[str, Any] = {
            "num_cpus": amounts.pop("CPU", 0),
            "num_gpus": amounts.pop("GPU", 0) or None,
            "memory": amounts.pop("memory", 0) or None,
            "resources": amounts or None,
        }
        if row.label_selector:
            options["label_selector"] = row.label_selector
        if not row.amounts and not row.label_selector:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(self._head, soft=False)
        env = msgspec.json.decode(row.runtime_env)
        options = {name: value for name, value in options.items() if value is not None}
        return _SUPERVISOR.options(
            name=supervisor_name(row.submission_id), namespace=OWN_NAMESPACE, lifetime="detached",
            get_if_exists=True, max_restarts=0, max_task_retries=0, max_concurrency=16,
            runtime_env=env or None, **options,
        ).remote()  # fmt: skip

    async def _wait_for_start(self, submission_id: str, call: Any) -> None:
        """Until the job is claimed, or its call has ended.

        Raises:
            TimeoutError: it took too long. A job that names resources may wait for them for ever.
        """
        row = self._rows.get(submission_id)
        until = float("inf")
        if row is not None and not row.amounts and not row.label_selector:
            until = row.submitted + self._config.job_start_timeout_s
        ended = asyncio.ensure_future(_outcome(call))
        try:
            while not ended.done():
                row = self._rows.get(submission_id)
                if row is None or row.state != "PENDING":
                    return
                if time.time() > until:
                    raise TimeoutError
                await asyncio.wait([ended], timeout=0.1)
        finally:
            ended.cancel()

    async def _fail(self, row: Submission, error: Exception) -> None:
        """Say why a job could not start, or was lost."""
        text = str(error)
        if row.state != "PENDING":
            kind = "JOB_SUPERVISOR_ACTOR_DIED"
            text = f"Job supervisor actor died: the job was lost with it. {text}"
        elif isinstance(error, RuntimeEnvSetupError):
            kind, text = "RUNTIME_ENV_SETUP_FAILURE", f"runtime_env setup failed: {text}"
        elif isinstance(error, TimeoutError):
            kind = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
        elif isinstance(error, ActorUnschedulableError):
            kind = "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
            text = f"Job supervisor actor could not be scheduled: {text}"
        else:
            kind = "JOB_SUPERVISOR_ACTOR_START_FAILURE"
            text = f"Job supervisor actor failed to start: {text}"
        logger.warning("Job %s fails: %s", row.submission_id, text)
        why = await self._submissions.failed(row.submission_id, kind, text)
        if why:
            logger.info("Job %s has not failed: %s.", row.submission_id, why)


def _find(submission_id: str) -> Any:
    """The supervisor by its name.

    Raises:
        ValueError: it has gone.
    """
    return nbray.get_actor(supervisor_name(submission_id), namespace=OWN_NAMESPACE)


async def _outcome(call: Any) -> None:
    """Wait for a call, however it ends."""
    try:
        await call
    except NbrayError:
        return
