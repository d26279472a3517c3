"""`JobConfig`: what a program says of itself when it joins, at Ray's path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbray.common.ignoring import ignore
from nbray.driver.logging_config import LoggingConfig, as_logging_config
from nbray.runtime_env import spec

_LIFETIMES = ("detached", "non_detached")


class JobConfig:
    """The settings of a job, for ``nbray.init(job_config=...)``.

    Args:
        jvm_options: has no effect: nbray runs Python only.
        code_search_path: folders from which workers import, before the program's own.
        runtime_env: the environment of the job's tasks and actors, as ``init(runtime_env=...)``.
        _client_job: has no effect.
        metadata: texts by their names, which `nbray.util.state.list_jobs` shows.
        ray_namespace: where the names of the job's actors live.
        default_actor_lifetime: the ``lifetime`` of actors that do not set it.
        _disable_job_level_lineage_reconstruction: has no effect.
        _py_driver_sys_path: more folders from which workers import.

    Raises:
        TypeError: ``code_search_path`` is no list.
        ValueError: the lifetime is impossible.

    Examples:
        >>> from nbray.job_config import JobConfig
        >>> config = JobConfig(metadata={"team": "weather"})
        >>> config.set_metadata("run", "7")
        >>> config.metadata
        {'team': 'weather', 'run': '7'}

        ```python
        import nbray
        from nbray.job_config import JobConfig

        nbray.init(job_config=JobConfig(metadata={"team": "weather"}))
        ```
    """

    def __init__(
        self,
        jvm_options: Sequence[str] | None = None,
        code_search_path: Sequence[str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        _client_job: bool = False,
        metadata: Mapping[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        _disable_job_level_lineage_reconstruction: bool = False,
        _py_driver_sys_path: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(code_search_path or [], list | tuple):
            raise TypeError(f"The type of code search path is incorrect: {type(code_search_path)}")
        if jvm_options or _client_job or _disable_job_level_lineage_reconstruction:
            ignore(
                "JobConfig",
                ("jvm_options", "_client_job", "_disable_job_level_lineage_reconstruction"),
            )
        self.jvm_options = list(jvm_options or [])
        self.code_search_path = list(code_search_path or [])
        self.metadata = dict(metadata or {})
        self.ray_namespace = ray_namespace
        self._client_job = _client_job
        self._disable_job_level_lineage_reconstruction = _disable_job_level_lineage_reconstruction
        self._py_driver_sys_path = list(_py_driver_sys_path or [])
        self.py_logging_config: LoggingConfig | None = None
        self.set_runtime_env(runtime_env)
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_metadata(self, key: str, value: str) -> None:
        """Add one text, or write over it.

        Args:
            key: its name.
            value: the text.
        """
        self.metadata[key] = value

    def set_runtime_env(
        self, runtime_env: Mapping[str, Any] | None, validate: bool = False
    ) -> None:
        """Set the environment; `nbray.init` checks it, and this does with ``validate``.

        Args:
            runtime_env: as for `nbray.init`; None is none.
            validate: check it at once.
        """
        env = dict(runtime_env or {})
        self.runtime_env = spec.validate(env) if validate else env

    def set_ray_namespace(self, ray_namespace: str) -> None:
        """Set the namespace.

        Args:
            ray_namespace: where the names of the job's actors live.
        """
        self.ray_namespace = ray_namespace

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Set the lifetime of actors that do not set it.

        Args:
            default_actor_lifetime: "detached" or "non_detached".

        Raises:
            ValueError: it is neither "detached" nor "non_detached".
        """
        if default_actor_lifetime not in _LIFETIMES:
            raise ValueError("Default actor lifetime must be one of `detached`, `non_detached`")
        self.default_actor_lifetime = default_actor_lifetime

    def set_py_logging_config(self, logging_config: LoggingConfig | None = None) -> None:
        """Set how the loggers of the job's workers are set up.

        Args:
            logging_config: the loggers' set-up; None leaves them as they are.
        """
        self.py_logging_config = logging_config

    def ensure_logging_config(
        self, logging_config: LoggingConfig | dict[str, Any] | None = None
    ) -> None:
        """Set it if it is not set.

        Args:
            logging_config: the loggers' set-up.

        Raises:
            TypeError: it is something else.
        """
        if self.py_logging_config is None:
            self.py_logging_config = as_logging_config(logging_config)

    @classmethod
    def from_json(cls, job_config_json: Mapping[str, Any]) -> JobConfig:
        """The settings out of a mapping, by the names of the constructor's arguments.

        Args:
            job_config_json: values by the names of the constructor's arguments, without "_" before.

        Returns:
            The config.
        """
        given = job_config_json.get
        return cls(
            jvm_options=given("jvm_options"),
            code_search_path=given("code_search_path"),
            runtime_env=given("runtime_env"),
            metadata=given("metadata"),
            ray_namespace=given("ray_namespace"),
            _client_job=given("client_job", False),
            _disable_job_level_lineage_reconstruction=given(
                "disable_job_level_lineage_reconstruction", False
            ),
            _py_driver_sys_path=given("py_driver_sys_path"),
        )
