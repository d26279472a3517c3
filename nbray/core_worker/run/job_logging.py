"""Logging as a job wants it, in its driver and in its workers; see `nbray.LoggingConfig`."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from nbray.core_worker.context import TaskContext, running
from nbray.core_worker.identity import Identity

_LINE = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
STANDARD_ATTRIBUTES = frozenset(
    {*logging.makeLogRecord({}).__dict__, "asctime", "message", "taskName"}
)


class LoggingSettings(msgspec.Struct, frozen=True):
    """What travels of `nbray.LoggingConfig`, which has checked it."""

    encoding: str
    log_level: str | int
    attributes: list[str] = []


class Runs(Protocol):
    """A process, which may run tasks."""

    me: Identity
    find_function: Callable[[TaskContext], Callable[..., Any]]


def function_name(core: Runs, task: TaskContext) -> str:
    """The dotted name of a task's function, with its module."""
    if task.actor_id and not task.method:
        return task.name  # the constructor, which has no function yet
    function, actor = core.find_function(task), core.me.actor
    if actor is not None and inspect.iscoroutinefunction(function):
        return f"{function.__module__}.{function.__qualname__}"  # so Ray names these
    owner = "" if actor is None else f"{actor.class_name}."
    return f"{function.__module__}.{owner}{getattr(function, '__name__', task.name)}"


def logging_facts(core: Runs) -> dict[str, str]:
    """Where this thread or coroutine runs: ids and names, empty ones left out."""
    facts = {
        "job_id": core.me.job.job_id.hex(),
        "worker_id": core.me.worker_id.hex(),
        "node_id": core.me.address.node_id.hex(),
    }
    if core.me.actor is not None:
        facts["actor_id"] = core.me.actor.actor_id.hex()
        facts["actor_name"] = core.me.actor.options.name
    task = running.get()
    if task is not None:
        facts["task_id"] = task.task_id.hex()
        facts["task_name"] = task.name
        facts["task_func_name"] = function_name(core, task)
    return {name: value for name, value in facts.items() if value}


class _Facts(logging.Filter):
    """Adds them to records, as long as this process belongs to a cluster."""

    def __init__(self, find_core: Callable[[], Runs | None]) -> None:
        super().__init__()
        self._find_core = find_core

    def filter(self, record: logging.LogRecord) -> bool:
        core = self._find_core()
        if core is not None:
            record.__dict__.update(logging_facts(core))
        return True


class _Formatter(logging.Formatter):
    """What the two encodings share.

    Args:
        attributes: attributes of records that are shown beside the usual ones.
    """

    def __init__(self, attributes: Sequence[str]) -> None:
        super().__init__(_LINE)
        self._attributes = attributes

    def more(self, record: logging.LogRecord) -> dict[str, Any]:
        """The attributes that were asked for, those of the program, and when it was."""
        found = {name: getattr(record, name, None) for name in self._attributes}
        for name, value in record.__dict__.items():
            if name not in STANDARD_ATTRIBUTES:
                found[name] = value
        found["timestamp_ns"] = int(record.created * 1e9)
        return found


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        more = " ".join(f"{name}={value}" for name, value in self.more(record).items())
        return f"{super().format(record)} {more}"


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        whole = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
        }
        if record.exc_info:
            record.exc_text = record.exc_text or self.formatException(record.exc_info)
            whole["exc_text"] = record.exc_text
        return json.dumps({**whole, **self.more(record)}, default=str)


ENCODINGS: dict[str, Callable[[Sequence[str]], _Formatter]] = {"TEXT": _Text, "JSON": _Json}


class _Handler(logging.StreamHandler[Any]):
    """The handler of a job; there is one at most."""


def set_up_logging(
    settings: LoggingSettings,
    find_core: Callable[[], Runs | None],
    loggers: Sequence[str] = (),
) -> None:
    """Give the root logger, and others by their names, the handler and level of the job."""
    handler = _Handler()
    handler.setLevel(settings.log_level)
    handler.setFormatter(ENCODINGS[settings.encoding](settings.attributes))
    handler.addFilter(_Facts(find_core))
    root = logging.getLogger()
    for logger in (root, *map(logging.getLogger, loggers)):
        for old in logger.handlers[:]:
            if logger is not root or isinstance(old, _Handler):
                logger.removeHandler(old)
        logger.setLevel(settings.log_level)
        logger.addHandler(handler)
        logger.propagate = logger is root


def enter_job_logging(text: str, core: Runs) -> None:
    """Set up the logging of a worker as its job's driver says."""
    set_up_logging(msgspec.json.decode(text, type=LoggingSettings), lambda: core)
