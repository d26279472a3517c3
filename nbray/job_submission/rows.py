"""What is said of jobs, with Ray's names and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


class JobStatus(StrEnum):
    """Where a job is in its life.

    Examples:
        >>> from nbray.job_submission import JobStatus
        >>> JobStatus.FAILED.is_terminal(), JobStatus.PENDING.is_terminal()
        (True, False)
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def is_terminal(self) -> bool:
        """Whether nothing of it runs any more.

        Returns:
            True for STOPPED, SUCCEEDED and FAILED.
        """
        return self in (JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED)


class JobErrorType(StrEnum):
    """Why a job failed.

    Examples:
        >>> from nbray.job_submission import JobErrorType
        >>> JobErrorType("RUNTIME_ENV_SETUP_FAILURE").name
        'RUNTIME_ENV_SETUP_FAILURE'
    """

    RUNTIME_ENV_SETUP_FAILURE = "RUNTIME_ENV_SETUP_FAILURE"
    JOB_SUPERVISOR_ACTOR_START_TIMEOUT = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
    JOB_SUPERVISOR_ACTOR_START_FAILURE = "JOB_SUPERVISOR_ACTOR_START_FAILURE"
    JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE = "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
    JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE = "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"
    JOB_SUPERVISOR_ACTOR_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
    JOB_ENTRYPOINT_COMMAND_START_ERROR = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
    JOB_ENTRYPOINT_COMMAND_ERROR = "JOB_ENTRYPOINT_COMMAND_ERROR"


class JobType(StrEnum):
    """Whether a job was submitted, or is a driver that joined the cluster by itself.

    Examples:
        >>> from nbray.job_submission import JobType
        >>> [str(kind) for kind in JobType]
        ['SUBMISSION', 'DRIVER']
    """

    SUBMISSION = "SUBMISSION"
    DRIVER = "DRIVER"


@dataclass
class DriverInfo:
    """The driver of a job.

    Attributes:
        id: its id, as hexadecimal text.
        node_ip_address: the node on which it runs.
        pid: its process there.

    Examples:
        >>> from nbray.job_submission import DriverInfo
        >>> DriverInfo("01000000", "127.0.0.1", "4711").pid
        '4711'
    """

    id: str
    node_ip_address: str
    pid: str


@dataclass
class JobDetails:
    """All that is known of a job.

    Attributes:
        type: whether it was submitted.
        job_id: the id of its driver, if one has joined the cluster.
        submission_id: by which a submitted job is asked for.
        driver_info: its driver, if one has joined the cluster.
        status: where it is in its life.
        entrypoint: the shell command that it runs.
        message: the same in a sentence; of a job that has not begun, why; of one that failed, the
            last lines of its log.
        error_type: why it failed.
        start_time: when it was submitted, in milliseconds since the epoch.
        end_time: when it ended.
        metadata: what its submitter wrote down.
        runtime_env: what it runs in.
        driver_agent_http_address: always None; Ray's agents have no counterpart.
        driver_node_id: the node on which it runs.
        driver_exit_code: how its entrypoint ended; a signal's number is negative.

    Examples:
        >>> from nbray.job_submission import JobDetails, JobType
        >>> JobDetails(JobType.SUBMISSION, submission_id="train").status is None
        True
    """

    type: JobType
    job_id: str | None = None
    submission_id: str | None = None
    driver_info: DriverInfo | None = None
    status: JobStatus | None = None
    entrypoint: str = ""
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None


@dataclass
class JobInfo:
    """What is known of the run of a job, without who runs it.

    Attributes:
        status: where it is in its life.
        entrypoint: the shell command that it runs.
        message: the same in a sentence.
        error_type: why it failed.
        start_time: when it was submitted, in milliseconds since the epoch.
        end_time: when it ended.
        metadata: what its submitter wrote down.
        runtime_env: what it runs in.

    Examples:
        >>> from nbray.job_submission import JobInfo, JobStatus
        >>> JobInfo(JobStatus.RUNNING, "python train.py").entrypoint
        'python train.py'
    """

    status: JobStatus
    entrypoint: str
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    runtime_env: dict[str, Any] = field(default_factory=dict)


def details_of(said: Mapping[str, Any]) -> JobDetails:
    """A job out of the JSON of the REST API; fields that nobody here knows are left out."""
    known = {one.name for one in fields(JobDetails)}
    values = {name: value for name, value in said.items() if name in known}
    driver = values.get("driver_info")
    values["driver_info"] = None if driver is None else DriverInfo(**driver)
    values["type"] = JobType(values["type"])
    values["status"] = JobStatus(values["status"])
    return JobDetails(**values)
