"""A task or call that leaves its process no file, or whose error cannot be told, is answered."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.core_worker.run import task_runner
from nbray.exceptions import NbraySystemError


def use_up() -> None:
    """From now on this process can open no file, and it needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    os.open("/dev/null", os.O_RDONLY)


def untold() -> None:
    """What is raised from now on in this process cannot be told."""

    def fails(_error: BaseException) -> str:
        raise MemoryError

    task_runner.user_traceback = fails  # type: ignore[assignment]
    raise ValueError("odd")


class Plain:
    def call(self, what: Any) -> str:
        what()
        return "answered"


class Async:
    async def call(self, what: Any) -> str:
        what()
        return "answered"


def actors() -> list[Any]:
    plain, coroutines = (nbray.remote(num_cpus=0)(kind) for kind in (Plain, Async))
    return [plain.remote(), plain.options(max_concurrency=3).remote(), coroutines.remote()]


def test_who_waits_hears_what_a_call_has_raised_that_left_no_file(cluster: Path) -> None:
    several = actors()
    calls = [actor.call.remote(use_up) for actor in several for _ in range(2)]
    calls.append(nbray.remote(max_retries=0)(use_up).remote())
    for call in calls:
        with pytest.raises(OSError, match="Too many open files"):
            nbray.get(call, timeout=60)
    assert nbray.get([actor.call.remote(bool) for actor in several], timeout=60)


def test_who_waits_hears_that_there_is_an_error_that_cannot_be_told(cluster: Path) -> None:
    calls = [actor.call.remote(untold) for actor in actors()]
    calls.append(nbray.remote(max_retries=0)(untold).remote())
    for call in calls:
        with pytest.raises(NbraySystemError, match=r"raised ValueError.*MemoryError"):
            nbray.get(call, timeout=60)
