"""``/api/jobs/``: Ray's REST API of submitted jobs, for Ray's own clients and for nbray's.

Texts and codes of the answers are Ray's, since its clients read them. What changes something needs
more than a cookie; see `gate.Authenticator.may_change`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tornado.web import HTTPError, RequestHandler

from nbray.common.background import Background
from nbray.state import queries as q
from nbray.state.client import RpcError
from nbray.state.logs import Reading
from nbray.state.rows import JobState
from nbray.state.submissions import (
    LIVE,
    Submission,
    Submissions,
    all_jobs,
    first_drivers,
    log_name,
    new_submission_id,
    submission_state,
    users_drivers,
    whys_waiting,
)

from .gate import Authenticator
from .jobs_manager import ManagerProcess
from .jobs_request import BadRequest, read_request

LARGEST_SUBMISSION = 1 << 20
_LEFT = "No node that is alive"
_LARGEST_LOG = 64 << 20


@dataclass(frozen=True)
class JobsPort:
    """What the handlers of jobs take of this process."""

    submissions: Submissions
    manager: ManagerProcess
    doorkeeper: Authenticator
    background: Background = field(default_factory=Background)

    async def details(self) -> list[JobState]:
        """Submitted jobs first, the newest on top, then the drivers of users."""
        rows, all_drivers, actors = await asyncio.gather(
            self.submissions.all(), self.submissions.ask(q.JOBS), self.submissions.ask(q.ACTORS)
        )
        # Thousands of them take their time, in which others are answered as well.
        return await asyncio.to_thread(all_jobs, rows, all_drivers, actors)

    async def one(self, job_id: str) -> JobState | None:
        """A job by its submission id, or the id of its driver."""
        row = await self.submissions.get(job_id)
        all_drivers = await self.submissions.ask(q.JOBS)
        drivers = users_drivers(all_drivers)
        if row is None:
            driver = next((job for job in drivers if job.job_id == job_id), None)
            named = driver.metadata.get("job_submission_id") if driver and driver.metadata else None
            row = await self.submissions.get(named) if named else None
            if row is None:
                return driver
        why = ""
        if row.state == "PENDING":
            actors = await self.submissions.ask(q.ACTORS)
            why = whys_waiting(actors).get(row.submission_id, "")
        return submission_state(row, first_drivers(drivers).get(row.submission_id), why)

    async def submission(self, job_id: str, doing: str) -> Submission:
        """The row of a submitted job.

        Raises:
            HTTPError: there is no such job, or it is a driver that was not submitted.
        """
        row = await self.submissions.get(job_id)
        if row is not None:
            return row
        job = await self.one(job_id)
        if job is None:
            raise HTTPError(404, f"Job {job_id} does not exist")
        row = await self.submissions.get(job.submission_id) if job.submission_id else None
        if row is None:
            raise HTTPError(400, f"Can only {doing} submission type jobs")
        return row


def as_json(job: JobState) -> dict[str, Any]:
    """A job as Ray's ``JobDetails``."""
    fields = asdict(job)
    del fields["namespace"]
    return fields


def _all_as_text(jobs: Sequence[JobState]) -> str:
    return json.dumps([as_json(job) for job in jobs])


class JobsHandler(RequestHandler):
    """What all handlers of jobs share: answers are texts or JSON, errors texts."""

    def initialize(self, jobs: JobsPort) -> None:
        """Take what they need."""
        self.jobs = jobs

    def set_default_headers(self) -> None:
        """Answers are of this moment."""
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        """Refuse a change by who may only read."""
        if self.request.method not in ("GET", "HEAD"):
            self.check_change()

    def check_change(self) -> None:
        """Raises HTTPError unless who asks may change something."""
        if not self.jobs.doorkeeper.may_change(self.request):
            raise HTTPError(
                403,
                "This changes something, for which the cluster's token is needed, or the page's "
                "own token from a page of this dashboard",
            )

    def say(self, value: Any) -> None:
        """Answer by JSON."""
        self.say_json(json.dumps(value))

    def say_json(self, text: str) -> None:
        """Answer by JSON that is there already."""
        self.set_header("Content-Type", "application/json")
        self.finish(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what was wrong in plain text."""
        _kind, error, _trace = kwargs.get("exc_info", (None, None, None))
        text = self._reason
        if isinstance(error, HTTPError):
            text = (error.log_message or text) % error.args
        elif isinstance(error, RpcError):
            self.set_status(503)
            text = str(error)
        elif error is not None:
            text = f"{type(error).__name__}: {error}"
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)


class Jobs(JobsHandler):
    """``/api/jobs/``: all jobs, and new ones."""

    async def get(self) -> None:
        """The jobs."""
        jobs = await self.jobs.details()
        self.say_json(await asyncio.to_thread(_all_as_text, jobs))

    async def post(self) -> None:
        """Submit one. The row is there before the answer, and the rest follows from the row."""
        try:
            row = read_request(self.request.body)
        except BadRequest as error:
            raise HTTPError(400, str(error)) from error
        row.submission_id = row.submission_id or new_submission_id()
        # Who hangs up now has submitted it all the same: nothing is left half done.
        why = await finished(self.jobs.submissions.submit(row))
        if why:
            raise HTTPError(400, why)
        self.jobs.manager.wanted()
        self.say({"job_id": row.submission_id, "submission_id": row.submission_id})


class Job(JobsHandler):
    """``/api/jobs/ID``: one job."""

    async def get(self, job_id: str) -> None:
        """What is known of it."""
        job = await self.jobs.one(job_id)
        if job is None:
            raise HTTPError(404, f"Job {job_id} does not exist")
        self.say(as_json(job))

    async def delete(self, job_id: str) -> None:
        """Forget it, when it has ended."""
        row = await self.jobs.submission(job_id, "delete")
        if row.state in LIVE or await finished(self.jobs.submissions.delete(row.submission_id)):
            state = "RUNNING" if row.state == "STOPPING" else row.state
            raise HTTPError(
                500,
                f"Attempted to delete job '{job_id}', but it is in a non-terminal state {state}.",
            )
        self.say({"deleted": True})


class StopJob(JobsHandler):
    """``/api/jobs/ID/stop``."""

    async def post(self, job_id: str) -> None:
        """End it; whether it had not ended."""
        row = await self.jobs.submission(job_id, "stop")
        stopped = await finished(self.jobs.submissions.stop(row.submission_id))
        self.jobs.manager.wanted()
        self.say({"stopped": stopped})


class Activities(JobsHandler):
    """``/api/component_activities``: whether the cluster is at work, for who ends idle ones."""

    async def get(self) -> None:
        """As Ray's, where a job that runs without a driver counts as well."""
        now = time.time()
        try:
            jobs = await self.jobs.details()
        except RpcError as error:
            self.say({"driver": {"is_active": "ERROR", "reason": str(error), "timestamp": now,
                                 "last_activity_at": None}})  # fmt: skip
            return
        active = sum(job.status in ("PENDING", "RUNNING") for job in jobs)
        ended = max((job.end_time or 0 for job in jobs), default=0) / 1000
        self.say(
            {
                "driver": {
                    "is_active": "ACTIVE" if active else "INACTIVE",
                    "reason": f"Number of active drivers: {active}" if active else None,
                    "timestamp": now,
                    "last_activity_at": min(now, ended) or None,
                }
            }
        )


class JobLogs(JobsHandler):
    """``/api/jobs/ID/logs``."""

    async def get(self, job_id: str) -> None:
        """All that is kept of its log, or its last 64 MB."""
        row = await self.jobs.submission(job_id, "get logs of")
        log = LogReader(self.jobs.submissions, row)
        text, size = [], 0
        while not log.is_read and (data := await log.part()):
            text.append(data)
            size += len(data)
            while size > _LARGEST_LOG:
                size -= len(text.pop(0))
        self.say({"logs": b"".join(text).decode(errors="replace")})


class LogReader:
    """Reads the log of a job from a place on."""

    def __init__(self, submissions: Submissions, row: Submission, place: int = 0) -> None:
        self._submissions = submissions
        self._row = row
        self._reading = Reading(place)
        self._told_gone = False

    def now(self, row: Submission) -> None:
        """The row is this now, which tells the node once the job has been claimed."""
        self._row = row

    async def part(self) -> bytes:
        """What comes next; nothing at the end of what there is.

        Raises:
            RpcError: the node does not answer.
        """
        if not self._row.node_id:
            return b""
        node, name = self._row.node_id.hex(), log_name(self._row.submission_id)
        try:
            part = await self._submissions.ask(q.log(node, name, self._reading.place, 0))
        except RpcError as error:
            if self._row.state in LIVE or _LEFT not in str(error):
                raise
            return self._gone(node)
        if part.missing:
            return b""
        return self._reading.take(part)

    @property
    def is_read(self) -> bool:
        """Whether all was read that there was at the first part."""
        return self._reading.is_read

    def _gone(self, node: str) -> bytes:
        """What is said, once, of the log of an ended job whose node has left with it."""
        if self._told_gone:
            return b""
        self._told_gone = True
        return f"The log was on node {node[:8]}, which has left the cluster.\n".encode()


async def finished(step: Awaitable[Any]) -> Any:
    """The outcome of a step that goes on when its request is given up meanwhile."""
    return await asyncio.shield(asyncio.ensure_future(step))
