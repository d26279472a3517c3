"""`LoggingConfig`: one way of logging for a program, its tasks and its actors."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.terminal import Terminal

import nbray
from nbray import LoggingConfig
from nbray.testing import wait_until


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("nbray")]
    before = [(one.level, one.handlers[:], one.propagate) for one in loggers]
    yield
    for one, (level, handlers, propagate) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.handlers[:], one.propagate = handlers, propagate


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"encoding": "XML"}, "Invalid encoding type: XML"),
        ({"log_level": "LOUD"}, "Unknown level"),
        ({"additional_log_standard_attrs": ["nope"]}, "Unknown python logging standard attribute"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        LoggingConfig(**wrong)
    with pytest.raises(TypeError, match=r"is an nbray\.LoggingConfig"):
        nbray.init(logging_config=wrong)  # type: ignore[arg-type]
    assert not nbray.is_initialized()


def test_a_config_is_known_by_its_fields() -> None:
    config = LoggingConfig("JSON", "DEBUG", ["name"])
    assert LoggingConfig.from_dict({**config.to_dict(), "newer": 1}) == config


@nbray.remote
def task() -> None:
    logging.getLogger("app").info("of a task", extra={"shown": 5, "odd": {1}})
    logging.getLogger("app").debug("too little")
    try:
        print(1 // 0)
    except ZeroDivisionError:
        logging.exception("failed")


@nbray.remote(num_cpus=0)
class Actor:
    def call(self) -> None:
        logging.getLogger("app").warning("of an actor")

    async def later(self) -> None:
        logging.getLogger("app").warning("of a coroutine")


def test_json_lines_of_tasks_actors_and_driver_say_where_they_are_from(
    session_root: Path, terminal: Terminal
) -> None:
    config = LoggingConfig("JSON", "INFO", ["name", "levelno"])
    nbray.init(num_cpus=1, logging_config=config)
    logging.info("of the driver")
    actor = Actor.options(name="keeper").remote()
    nbray.get([task.remote(), actor.call.remote(), actor.later.remote()])
    found: dict[str, dict[str, Any]] = {}

    def arrived() -> bool:
        for line in terminal.err.splitlines(keepends=True):
            if "{" in line and line.endswith("\n"):
                record = json.loads(line[line.index("{") :])
                found[record["message"]] = record
        return len(found) >= 5

    wait_until(arrived, "all lines")
    assert set(found) == {
        "of the driver", "of a task", "failed", "of an actor", "of a coroutine"
    }  # fmt: skip
    assert all(
        {"asctime", "levelname", "filename", "lineno", "process", "job_id", "worker_id", "node_id",
         "timestamp_ns", "name", "levelno"} <= set(record)
        for record in found.values()
    )  # fmt: skip
    assert "task_id" not in found["of the driver"]
    of_task = found["of a task"]
    assert (of_task["task_name"], of_task["shown"], of_task["odd"]) == ("task", 5, "{1}")
    assert of_task["task_func_name"] == f"{__name__}.task" and of_task["levelno"] == logging.INFO
    assert "ZeroDivisionError" in found["failed"]["exc_text"]
    assert found["of an actor"]["actor_name"] == "keeper"
    assert found["of a coroutine"]["task_func_name"] == f"{__name__}.Actor.later"


def test_text_lines_have_the_same_behind_the_message(
    session_root: Path, terminal: Terminal
) -> None:
    nbray.init(num_cpus=1, logging_config=LoggingConfig(log_level="INFO"))
    nbray.get(task.remote())
    wait_until(lambda: "failed" in terminal.err, "the lines")
    (line,) = (line for line in terminal.err.splitlines() if "of a task" in line)
    assert "INFO test_logging_config.py:" in line and " -- of a task " in line
    assert "shown=5" in line and "task_name=task" in line and "timestamp_ns=" in line


def test_a_second_config_takes_the_place_of_the_first(capfd: pytest.CaptureFixture[str]) -> None:
    LoggingConfig(log_level="INFO").apply()
    LoggingConfig("JSON", "INFO").apply()
    logging.info("of the driver alone")
    assert json.loads(capfd.readouterr().err)["message"] == "of the driver alone"
