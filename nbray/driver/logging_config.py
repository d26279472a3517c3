"""`nbray.LoggingConfig`: how the loggers of a program and of its workers write."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import msgspec

from nbray.core_worker.current import find_core
from nbray.core_worker.run.job_logging import (
    ENCODINGS,
    STANDARD_ATTRIBUTES,
    LoggingSettings,
    set_up_logging,
)


@dataclass
class LoggingConfig:
    """The logging of a job, for ``nbray.init(logging_config=...)``.

    The root logger of the driver and of each worker of the job gets one handler, which writes to
    ``sys.stderr`` with the ids and names of job, worker, node, actor and task, and the level. What
    a program gives as ``extra`` is written, too.

    Args:
        encoding: "TEXT", one line with ``name=value`` behind the message; or "JSON", one object
            a line.
        log_level: a level's name or number.
        additional_log_standard_attrs: attributes of `logging.LogRecord` to write beside
            asctime, levelname, message, filename, lineno, process and exc_text.

    Raises:
        ValueError, TypeError: one of them cannot be.

    Examples:
        >>> nbray.LoggingConfig(encoding="JSON", log_level="WARNING").to_dict()["encoding"]
        'JSON'

        ```python
        import nbray

        nbray.init(logging_config=nbray.LoggingConfig(encoding="JSON"))
        ```
    """

    encoding: str = "TEXT"
    log_level: str | int = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(
                f"Invalid encoding type: {self.encoding}. "
                f"Valid encoding types are: {list(ENCODINGS)}"
            )
        logging.NullHandler().setLevel(self.log_level)  # it raises for what is no level
        for attribute in self.additional_log_standard_attrs:
            if attribute not in STANDARD_ATTRIBUTES:
                raise ValueError(
                    f"Unknown python logging standard attribute: {attribute}. "
                    f"The valid attributes are: {sorted(STANDARD_ATTRIBUTES)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The fields by their names."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> LoggingConfig:
        """The config of these fields; others are left out.

        Args:
            d: what `to_dict` gave.

        Returns:
            An equal config.
        """
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in d.items() if name in known})

    def _settings(self) -> LoggingSettings:
        attributes = list(self.additional_log_standard_attrs)
        return LoggingSettings(self.encoding, self.log_level, attributes)

    def apply(self) -> None:
        """Set up the loggers of this process, and that of nbray's own messages."""
        set_up_logging(self._settings(), find_core, ["nbray"])

    _apply = apply

    def encoded(self) -> str:
        """The config as it travels to workers."""
        return msgspec.json.encode(self._settings()).decode()


def as_logging_config(given: Any) -> LoggingConfig | None:
    """What ``nbray.init(logging_config=...)`` was given.

    Raises:
        TypeError: it is no `LoggingConfig`.
    """
    if given is None or isinstance(given, LoggingConfig):
        return given
    raise TypeError(f"logging_config is an nbray.LoggingConfig, not {type(given)}.")
