"""When it is in vain to wait for a worker: processes that start, or do not."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from nbray.common.session import Session
from nbray.raylet.workers.forks import Forks
from nbray.raylet.workers.worker import Worker
from nbray.raylet.workers.worker_life import Event
from nbray.runtime_env.setup import Prepared
from nbray.wire.causes import Cause

BROKEN = Prepared("", python="/nowhere/python")
SLOW = Prepared("", python="sh -c 'exec sleep 1000'")  # its interpreter begins, and says nothing


class Pool:
    """Who has workers started."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.ended: list[Worker] = []

    def worker_ended(self, worker: Worker) -> None:
        self.ended.append(worker)

    def not_started(self, env: str, cause: Cause) -> None:
        self.refused.append(cause.text)

    def start_again(self) -> None:
        """The test does."""


class Scene:
    """The starts of a node that gives up after ``start_timeout_s``."""

    def __init__(self, folder: Path, start_timeout_s: float) -> None:
        (folder / "logs").mkdir()
        self.pool = Pool()
        self.forks = Forks(
            Session(folder), str(folder / "none"), "127.0.0.1", self.pool, start_timeout_s, 60.0
        )

    async def fail(self, times: int) -> None:
        left = len(self.forks.workers)
        for _ in range(times):
            self.forks.start(BROKEN)
        while len(self.forks.workers) > left:
            await asyncio.sleep(0)


def test_nobody_is_refused_while_an_earlier_start_may_succeed(tmp_path: Path) -> None:
    async def scene() -> None:
        scene = Scene(tmp_path, start_timeout_s=0.0)
        scene.forks.start(SLOW)
        (slow,) = scene.forks.workers.values()
        await scene.fail(8)
        assert scene.pool.refused == []
        assert slow.template is not None
        slow.template.kill()
        while scene.forks.workers:
            await asyncio.sleep(0.01)
        assert len(scene.pool.refused) == 1
        scene.forks.stop()

    asyncio.run(scene())


def test_failures_of_long_ago_are_not_counted(tmp_path: Path) -> None:
    async def scene() -> None:
        scene = Scene(tmp_path, start_timeout_s=0.2)
        await scene.fail(2)
        await asyncio.sleep(0.4)  # nobody wants a worker for longer than that
        await scene.fail(1)
        assert scene.pool.refused == []
        scene.forks.stop()

    asyncio.run(scene())


def test_what_fails_for_long_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def scene() -> None:
        scene = Scene(tmp_path, start_timeout_s=0.0)
        await scene.fail(3)
        (text,) = scene.pool.refused
        assert "/nowhere/python" in text
        scene.forks.stop()

    asyncio.run(scene())


def test_a_worker_that_was_up_before_its_template_could_tell_of_it_outlives_it(
    tmp_path: Path,
) -> None:
    """Templates fork several in a row, and tell of them then."""

    async def scene() -> None:
        scene = Scene(tmp_path, start_timeout_s=0.0)
        scene.forks.start(SLOW)
        (worker,) = scene.forks.workers.values()
        process = subprocess.Popen(["sleep", "1000"])
        try:
            worker.pid = process.pid
            worker.move(Event.READY)
            scene.forks.ready(worker)
            assert worker.template is not None
            worker.template.kill()
            while worker.template is not None:
                await asyncio.sleep(0.01)
            assert scene.forks.workers and worker.descriptor is not None
        finally:
            process.kill()
            process.wait()
        while scene.forks.workers:
            await asyncio.sleep(0.01)
        assert scene.pool.ended == [worker]
        scene.forks.stop()

    asyncio.run(scene())
