"""Jobs from outside: `JobSubmissionClient` and what it returns, at Ray's path.

It speaks HTTP to a cluster's dashboard, and needs no cluster of its own. It knows packages
(`nbray.runtime_env`) and where clusters are (`nbray.state.client`), and no part of a process.
"""

from nbray.job_submission.client import JobSubmissionClient
from nbray.job_submission.rows import (
    DriverInfo,
    JobDetails,
    JobErrorType,
    JobInfo,
    JobStatus,
    JobType,
)

__all__ = [
    "DriverInfo",
    "JobDetails",
    "JobErrorType",
    "JobInfo",
    "JobStatus",
    "JobSubmissionClient",
    "JobType",
]
