"""Submitted jobs as the dashboard, the job manager and the state API know them."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from nbray.state import rows as r
from nbray.state.queries import Query
from nbray.wire import submission_messages as s
from nbray.wire.gcs_messages import PACKAGES, KvCount, KvDel, KvKey, KvPut, KvValue, UsePackage
from nbray.wire.grpc_service import GrpcClient
from nbray.wire.submission_messages import Submission

__all__ = [
    "ENDED", "LIVE", "OWN_NAMESPACE", "ROWS", "Submission", "Submissions", "all_jobs",
    "first_drivers", "joined_by_themselves", "log_name", "new_submission_id", "submission_state",
    "supervised_by", "supervisor_name", "users_drivers", "whys_waiting",
]  # fmt: skip

LIVE = ("PENDING", "RUNNING", "STOPPING")
"""The states of jobs that have not ended."""

ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
"""The states of those that have."""

T = TypeVar("T")
_SUPERVISOR = "_nbray_job_supervisor_"
_WAIT_S = 20.0
_ANSWER_S = 30.0
_PATIENCE_S = 60.0
_LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ123456789"

OWN_NAMESPACE = "_nbray_internal"
"""Of the job manager and the supervisors; what lives there is not shown among the users' jobs."""


def supervisor_name(submission_id: str) -> str:
    """The name of the actor that runs a job."""
    return f"{_SUPERVISOR}{submission_id}"


def supervised_by(name: str) -> str:
    """The job that the actor of a name runs; empty if it runs none."""
    return name.removeprefix(_SUPERVISOR) if name.startswith(_SUPERVISOR) else ""


def log_name(submission_id: str) -> str:
    """The name of a job's log, in the log folder of the node where it runs."""
    return f"job-driver-{quote(submission_id, safe='')}.log"


def new_submission_id() -> str:
    """A random id, of letters and digits that are not mistaken for each other."""
    return "raysubmit_" + "".join(secrets.choice(_LETTERS) for _ in range(16))


class Submissions:
    """The rows of submitted jobs at the GCS at ``address``, and the packages that they need.

    ``near`` is its Unix socket, if it is on this machine.

    Every method raises `RpcError` when the GCS has been away for a minute.
    """

    def __init__(self, address: str, token: bytes, near: str = "") -> None:
        self._gcs = GrpcClient(address, token, _PATIENCE_S, near)

    async def ask(self, query: Query[T]) -> T:
        """The rows of a query of the state API, from a GCS that may be away for a while."""
        return query.read(await self._gcs.call_raw(query.method, query.body))

    async def submit(self, row: Submission) -> str:
        """Have a job run; why not, if it is refused. When this returns, it is not forgotten."""
        row.request_id = os.urandom(16)
        reply = await self._gcs.call("SubmitJob", s.SubmitJob(row), s.SubmissionChanged)
        return reply.why

    async def get(self, submission_id: str) -> Submission | None:
        """A row."""
        request = s.SubmissionId(submission_id)
        return (await self._gcs.call("GetSubmission", request, s.SubmissionChanged)).row

    async def all(self) -> list[Submission]:
        """All rows, the oldest first."""
        found: list[Submission] = []
        request = s.WatchSubmissions()
        while True:
            reply = await self._gcs.call("WatchSubmissions", request, s.Submissions, _ANSWER_S)
            found = reply.rows if reply.complete else found + reply.rows
            if not reply.more:
                newest = {row.submission_id: row for row in found}
                return sorted(newest.values(), key=lambda row: row.submitted)
            request = s.WatchSubmissions(reply.epoch, reply.version)

    async def changes(self) -> AsyncIterator[s.Submissions]:
        """All rows first, then those that are new, changed or gone, for ever; also when none is."""
        request = s.WatchSubmissions()
        while True:
            reply = await self._gcs.call(
                "WatchSubmissions", request, s.Submissions, _PATIENCE_S + _ANSWER_S
            )
            yield reply
            wait_s = 0.0 if reply.more else _WAIT_S
            request = s.WatchSubmissions(reply.epoch, reply.version, wait_s)

    async def stop(self, submission_id: str) -> bool:
        """Have a job end; whether it had not ended already."""
        return not (await self._change(submission_id, "asked to stop")).why

    async def delete(self, submission_id: str) -> str:
        """Forget an ended job; why not."""
        return (await self._change(submission_id, "deleted")).why

    async def failed(self, submission_id: str, error_type: str, message: str) -> str:
        """Say that a job cannot go on; why not, as when it has ended meanwhile."""
        reply = await self._change(submission_id, "failed", error_type, message)
        return reply.why

    async def _change(
        self, submission_id: str, event: str, error_type: str = "", message: str = ""
    ) -> s.SubmissionChanged:
        request = s.ChangeSubmission(submission_id, event, message=message, error_type=error_type)
        return await self._gcs.call("ChangeSubmission", request, s.SubmissionChanged)

    # --- packages --------------------

    async def use_package(self, uri: str, size: int) -> bool:
        """Have a package stay for a while; whether it is there."""
        request = UsePackage(uri.encode(), b"", size)
        return bool((await self._gcs.call("UsePackage", request, KvCount)).count)

    async def put(self, key: str, value: bytes, overwrite: bool = True) -> bool:
        """Keep a part of a package; whether nothing was there."""
        request = KvPut(PACKAGES, key.encode(), value, overwrite)
        return bool((await self._gcs.call("KvPut", request, KvCount)).count)

    async def package(self, uri: str) -> bytes | None:
        """What is kept of a complete package: its first row; None without one."""
        return (await self._gcs.call("KvGet", KvKey(PACKAGES, uri.encode()), KvValue)).value

    async def drop(self, prefix: str) -> None:
        """Delete the parts whose keys begin so."""
        await self._gcs.call("KvDel", KvDel(PACKAGES, prefix.encode(), True), KvCount)

    async def close(self) -> None:
        """Close the channel."""
        await self._gcs.close()


def _rows(reply: s.Submissions) -> list[Submission]:
    return reply.rows


ROWS = Query("WatchSubmissions", s.Submissions, _rows, msgspec.msgpack.encode(s.WatchSubmissions()))
"""The rows of submitted jobs, or as many as fit a message."""


def all_jobs(
    rows: Iterable[Submission], drivers: Iterable[r.JobState], actors: Iterable[r.ActorState]
) -> list[r.JobState]:
    """The submitted jobs, the newest first, and the drivers of users that joined by themselves."""
    known = users_drivers(drivers)
    first, whys = first_drivers(known), whys_waiting(actors)
    found = [
        submission_state(row, first.get(row.submission_id), whys.get(row.submission_id, ""))
        for row in sorted(rows, key=lambda row: -row.submitted)
    ]
    return found + joined_by_themselves(known)


def first_drivers(jobs: Iterable[r.JobState]) -> dict[str, r.JobState]:
    """The first driver of each submitted job."""
    found: dict[str, r.JobState] = {}
    for job in jobs:
        if name := (job.metadata or {}).get("job_submission_id"):
            found.setdefault(name, job)
    return found


def submission_state(row: Submission, driver: r.JobState | None, why: str = "") -> r.JobState:
    """A submitted job as a row of the state API, with Ray's words.

    Args:
        row: what the GCS has.
        driver: the job's first driver, if one has come.
        why: of one that has not begun, why its supervisor waits.
    """
    message = row.message
    if row.state == "PENDING":
        message = "Job has not started yet."
        if row.amounts:
            message += (
                " It may be waiting for resources (CPUs, GPUs, memory, custom resources) to "
                "become available."
            )
        if row.runtime_env != "{}":
            message += " It may be waiting for the runtime environment to be set up."
        if why:
            message += f" {why}"
    state = "RUNNING" if row.state == "STOPPING" else row.state
    env: dict[str, Any] = json.loads(row.runtime_env)
    return r.JobState(
        "SUBMISSION", driver.job_id if driver else None, row.submission_id,
        driver.driver_info if driver else None, state, row.entrypoint,
        message or None, row.error_type or None, "",
        int(row.submitted * 1000), int(row.ended * 1000) or None, dict(row.metadata), env,
        None, row.node_id.hex() or None, row.exit_code,
    )  # fmt: skip


def joined_by_themselves(drivers: Iterable[r.JobState]) -> list[r.JobState]:
    """The drivers that are no part of a submitted job."""
    return [job for job in drivers if "job_submission_id" not in (job.metadata or {})]


def users_drivers(jobs: Iterable[r.JobState]) -> list[r.JobState]:
    """The drivers that are programs of users, not of the cluster itself."""
    return [job for job in jobs if job.namespace != OWN_NAMESPACE]


def whys_waiting(actors: Iterable[r.ActorState]) -> dict[str, str]:
    """Why the supervisors of jobs have not come up, of those that have not."""
    found: dict[str, str] = {}
    for actor in actors:
        if actor.pending_reason and (name := supervised_by(actor.name or "")):
            found.setdefault(name, actor.pending_reason)
    return found
