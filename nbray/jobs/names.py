"""What jobs are called where their drivers meet them."""

from __future__ import annotations

JOB_CONFIG = "NBRAY_JOB_CONFIG"
"""The variable by which a job's drivers learn what they belong to, as JSON."""

RAY_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The same for programs that read Ray's."""
