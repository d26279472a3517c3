"""`JobConfig`, at Ray's path."""

from nbray.driver.job_config import (
    JobConfig,
)

__all__ = [
    "JobConfig",
]
