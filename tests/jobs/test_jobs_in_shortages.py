"""Jobs where no process or no thread can be started for a moment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbray.common.config import Config
from nbray.common.session import Session
from nbray.dashboard import jobs_manager
from nbray.jobs import manager


def test_the_job_manager_is_started_as_soon_as_it_can_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(jobs_manager, "_PAUSE_S", 0.0)
    started: list[str] = []

    def spawn(module: str, *_of_it: Any, **_options: Any) -> Any:
        started.append(module)
        if len(started) == 1:
            raise OSError("Too many open files")
        return SimpleNamespace(
            do_not_wait=lambda: None, pid=1, returncode=None, terminate=lambda: None
        )

    async def rows() -> list[Any]:
        return [SimpleNamespace(state="STOPPED")]  # whose supervisor may have been left

    async def scene() -> None:
        submissions: Any = SimpleNamespace(all=rows)
        running = asyncio.create_task(
            jobs_manager.ManagerProcess(Session(tmp_path), "", submissions).run()
        )
        async with asyncio.timeout(20):
            while len(started) < 2:
                assert not running.done()
                await asyncio.sleep(0)
        running.cancel()

    monkeypatch.setattr(jobs_manager, "spawn", spawn)
    asyncio.run(scene())


def test_a_job_that_is_to_stop_is_told_so_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "_TELL_AGAIN_S", 0.0)
    row: Any = SimpleNamespace(submission_id="job", request_id=b"r")
    asked: list[str] = []

    async def scene() -> None:
        told = asyncio.Event()

        async def stop() -> None:
            told.set()

        def find(submission_id: str) -> Any:
            asked.append(submission_id)
            if len(asked) == 1:
                raise RuntimeError("can't start new thread")
            return SimpleNamespace(stop=SimpleNamespace(remote=stop))

        monkeypatch.setattr(manager, "_find", find)
        none: Any = None
        jobs = manager.JobManager(none, "", "", Config())
        jobs._rows["job"] = row
        jobs._cared[manager._key(row)] = none
        jobs._have_stopped(row)
        async with asyncio.timeout(20):
            await told.wait()
        jobs._cared.pop(manager._key(row))

    asyncio.run(scene())
