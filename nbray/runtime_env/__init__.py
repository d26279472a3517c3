"""Runtime environments: variables, files and packages that a job, task or actor runs with."""

from nbray.runtime_env.spec import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
