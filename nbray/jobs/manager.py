"""The job manager: sees to it that each job which has not ended has its supervisor, or fails.

It keeps nothing but the tasks that wait for supervisors, so a new one goes on where a killed one
was: it reads all rows, and makes or finds the supervisor of each by its name. Two of them at the
same time do no harm, since a job is claimed by one supervisor only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import msgspec

import nbray
from nbray.common.config import Config
from nbray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    LocalRayletDiedError,
    NbrayError,
    RuntimeEnvSetupError,
)
from nbray.jobs.supervisor import JobSupervisor
from nbray.state.lists import list_actors
from nbray.state.rows import ActorState
from nbray.state.selecting import MAX_LIMIT
from nbray.state.submissions import (
    LIVE,
    OWN_NAMESPACE,
    Submission,
    Submissions,
    supervised_by,
    supervisor_name,
)
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

_STARTED_AT_ONCE = 16
_TURN_S = 2.0
_TRIES = 5
_AGAIN_S = 0.5
_TELL_AGAIN_S = 5.0
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
        self._begun: dict[str, asyncio.Event] = {}
        self._starting = asyncio.Semaphore(_STARTED_AT_ONCE)
        self._idle_since = time.monotonic()
        self._lost: asyncio.Future[None]

    async def run(self) -> None:
        """Care until there have been no jobs for a while.

        Raises:
            RpcError: the GCS has been away for a minute. LocalRayletDiedError: the head has.
        """
        watching = asyncio.get_running_loop().create_task(self._watch())
        self._lost = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([watching, self._lost], return_when=asyncio.FIRST_COMPLETED)
            (self._lost if self._lost.done() else watching).result()
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        begun = False
        unseen: set[str] = set()
        async for news in self._submissions.changes():
            if news.complete:
                unseen = set(self._rows)
            for row in news.rows:
                unseen.discard(row.submission_id)
                self._see(row)
            # Of one that was stopped and deleted between two looks, this alone is heard.
            gone = set(news.gone)
            if not news.more:
                gone, unseen = gone | unseen, set()
            for submission_id in gone:
                self._see_end(submission_id)
            if not begun:
                begun = True
                await self._end_forgotten()
            if self._cared:
                self._idle_since = time.monotonic()
            elif time.monotonic() - self._idle_since > self._config.job_manager_idle_s:
                logger.info("There have been no jobs for a while; the manager leaves.")
                return

    async def _end_forgotten(self) -> None:
        """End the supervisors of jobs that ended while no manager was there, and never ran."""
        for actor in await asyncio.to_thread(_supervisors):
            submission_id = supervised_by(actor.name or "")
            if not submission_id or submission_id in self._rows:
                continue
            row = await self._submissions.get(submission_id)
            if row is None or row.state not in LIVE:
                with contextlib.suppress(ValueError):  # it has just gone
                    nbray.kill(await asyncio.to_thread(_find, submission_id))

    def _see(self, row: Submission) -> None:
        known = self._rows.get(row.submission_id)
        if known is not None and _key(known) != _key(row):
            self._see_end(row.submission_id)  # that one is gone, and its name has another
        if row.state not in LIVE:
            self._see_end(row.submission_id, has_run=bool(row.attempt))
            return
        key = _key(row)
        self._rows[row.submission_id] = row
        if row.state != "PENDING" and key in self._begun:
            self._begun[key].set()
        if key not in self._cared:
            task = asyncio.get_running_loop().create_task(self._care(row))
            self._cared[key] = task
            task.add_done_callback(lambda task: self._cared_for(key, task))
        if row.state == "STOPPING":
            self._have_stopped(row)

    def _see_end(self, submission_id: str, has_run: bool = False) -> None:
        row = self._rows.pop(submission_id, None)
        if row is None:
            return
        if (begun := self._begun.get(_key(row))) is not None:
            begun.set()
        if row.state == "PENDING" and not has_run and _key(row) in self._cared:
            self._have_stopped(row)  # it must not come up

    def _cared_for(self, key: str, task: asyncio.Task[None]) -> None:
        self._cared.pop(key, None)
        if not task.cancelled() and (error := task.exception()) and not self._lost.done():
            self._lost.set_exception(error)

    def _have_stopped(self, row: Submission) -> None:
        name = f"stop {_key(row)}"
        if name not in self._cared:
            self._cared[name] = asyncio.get_running_loop().create_task(self._stop(row))
            self._cared[name].add_done_callback(lambda _task: self._cared.pop(name, None))

    async def _stop(self, row: Submission) -> None:
        """Tell a supervisor to end its job, as long as it has not; or end one without a job."""
        while True:
            now = self._rows.get(row.submission_id)
            try:
                handle = await asyncio.to_thread(_find, row.submission_id)
                if now is None or _key(now) != _key(row):
                    nbray.kill(handle)
                    return
                await handle.stop.remote()
            except Exception as error:  # it has gone, does not answer, or there is no thread to ask
                logger.info("The supervisor of %s was not told: %r", row.submission_id, error)
            await asyncio.sleep(_TELL_AGAIN_S)
            if _key(row) not in self._cared:
                return

    async def _care(self, row: Submission) -> None:
        """Have a job run, and say why it does not, as long as it has not ended.

        One that has not begun gets another supervisor when its own dies, as with a node.
        """
        for tries_left in reversed(range(_TRIES)):
            error = await self._try(row)
            if error is None:
                return
            if isinstance(error, LocalRayletDiedError):
                raise error  # it says nothing of the job
            now = await self._submissions.get(row.submission_id)
            if now is None or now.state not in LIVE or _key(now) != _key(row):
                return
            died = isinstance(error, ActorDiedError) and now.state == "PENDING"
            if not died or not tries_left:
                await self._fail(now, error)
                return
            logger.info("Job %s gets another supervisor: %s", row.submission_id, error)
            await asyncio.sleep(_AGAIN_S)

    async def _try(self, row: Submission) -> Exception | None:
        """Have a supervisor run the job to its end; why it did not."""
        handle: Any = None
        error: Exception | None = None
        waits = bool(row.amounts or row.label_selector)  # perhaps for ever, for nodes to come
        limit = None if waits else self._config.job_start_timeout_s
        try:
            async with contextlib.nullcontext() if waits else self._starting:
                handle = await asyncio.to_thread(self._supervisor, row)
                call = handle.run.remote(msgspec.msgpack.encode(row), self._variables)
                starting = asyncio.get_running_loop().create_task(self._wait_for_start(row, call))
                # One whose environment takes minutes does not keep others from beginning.
                await asyncio.wait([starting], timeout=_TURN_S)
            await asyncio.wait_for(starting, limit)
            await call
        except (NbrayError, ValueError) as raised:
            error = raised
        except TimeoutError:
            error = TimeoutError(
                f"Job supervisor actor failed to start within "
                f"{self._config.job_start_timeout_s:g} seconds. This timeout can be changed by "
                "the variable NBRAY_JOB_START_TIMEOUT_S of the head node."
            )
        except Exception as raised:
            # It is this job's end, and not that of the manager, and the next, and the next one.
            logger.exception("Job %s cannot be started.", row.submission_id)
            error = raised
        if isinstance(error, LocalRayletDiedError):
            return error
        # Not when this manager leaves: the supervisor goes on, and the next one finds it.
        if handle is not None:
            nbray.kill(handle)
        return error

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

    async def _wait_for_start(self, row: Submission, call: Any) -> None:
        """Until the job is claimed, or its call has ended."""
        begun = self._begun[_key(row)] = asyncio.Event()
        now = self._rows.get(row.submission_id)
        if now is None or _key(now) != _key(row) or now.state != "PENDING":
            begun.set()
        waits = [asyncio.ensure_future(_outcome(call)), asyncio.ensure_future(begun.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._begun[_key(row)]
            for wait in waits:
                wait.cancel()

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


def _key(row: Submission) -> str:
    """One job: its id may be that of another, later."""
    return f"{row.submission_id} {row.request_id.hex()}"


def _supervisors() -> list[ActorState]:
    """The actors in our namespace that have not ended."""
    ours = [("ray_namespace", "=", OWN_NAMESPACE), ("state", "!=", "DEAD")]
    return list_actors(filters=ours, limit=MAX_LIMIT)


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
