"""The messages on submitted jobs: dashboard, job manager and supervisors to the GCS.

Times are seconds since the epoch. The sender bounds what a row has, so that rows fit a message.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from nbray.wire.gcs_messages import request_id


class Submission(msgspec.Struct, array_like=True):
    """A job that was submitted: what is to run, and what became of it.

    ``amounts`` are the resources that its entrypoint needs, by name; ``runtime_env`` is JSON.
    ``attempt`` is the supervisor that has claimed the job: nobody else runs it. ``version`` grows
    with each change of any row; ``request_id`` is by whose request the job is here.
    """

    submission_id: str
    entrypoint: str
    metadata: dict[str, str] = {}
    runtime_env: str = "{}"
    amounts: dict[str, float] = {}
    label_selector: dict[str, str] = {}
    state: str = "PENDING"
    message: str = ""
    error_type: str = ""
    submitted: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    attempt: bytes = b""
    node_id: bytes = b""
    host: str = ""
    pid: int = 0
    exit_code: int | None = None
    version: int = 0
    story: list[str] = []
    request_id: bytes = b""


class SubmitJob(msgspec.Struct, array_like=True):
    """To the GCS: a new job, as far as its submitter says what it is. By `SubmissionChanged`.

    One that is repeated, with the ``request_id`` that the row has, is done once.
    """

    row: Submission


class SubmissionId(msgspec.Struct, array_like=True):
    """To the GCS: ``GetSubmission``. Answered by `SubmissionChanged`, not ``done`` if none is."""

    submission_id: str


class ChangeSubmission(msgspec.Struct, array_like=True):
    """To the GCS: what happened to a job, an event of `nbray.gcs.submissions.life`.

    ``attempt`` says which supervisor says so, or of which it is said. Answered by
    `SubmissionChanged`; a request that is repeated is done once.
    """

    submission_id: str
    event: str
    attempt: bytes = b""
    message: str = ""
    error_type: str = ""
    exit_code: int | None = None
    node_id: bytes = b""
    host: str = ""
    pid: int = 0
    request_id: bytes = msgspec.field(default_factory=request_id)


class SubmissionChanged(msgspec.Struct, array_like=True):
    """The GCS: the row as it is now, None without one; ``done``, or ``why`` not."""

    row: Submission | None
    done: bool = True
    why: str = ""


class WatchSubmissions(msgspec.Struct, array_like=True):
    """To the GCS: answered by `Submissions` once there is something newer than ``version``.

    Or after ``wait_s``. ``epoch`` is that of the last answer; another one makes it begin anew.
    """

    epoch: bytes = b""
    version: int = 0
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=30)] = 0.0


class Submissions(msgspec.Struct, array_like=True):
    """The GCS: rows in the order of their versions, and ids of rows that are gone.

    ``complete``: the answer begins with the first row; ``more``: not all fitted, so ask again.
    """

    epoch: bytes
    version: int
    rows: list[Submission] = []
    gone: list[str] = []
    complete: bool = False
    more: bool = False
