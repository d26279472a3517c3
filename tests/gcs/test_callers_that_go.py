"""What the GCS has begun for a caller that goes is done whole."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import nbray
from nbray.common.background import Background
from nbray.common.session import GCS
from nbray.core_worker.current import joined_core
from nbray.gcs.groups import table
from nbray.gcs.storage import Store
from nbray.gcs.storage.memory import MemoryBackend
from nbray.testing import wait_until
from nbray.util.placement_group import placement_group
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.gcs_messages import ChangeGroups, JobId, KillActorRequest, WaitGroups
from nbray.wire.near_calls import NearCalls

WISH = Cause(CauseKind.ENDED, "a test wished it")


def ask_and_go(method: str, request: Any) -> None:
    """Call the GCS as a raylet does that ends as soon as its call has been read."""

    async def go() -> None:
        session = joined_core().session
        calls = NearCalls(session.calls_path(GCS), session.token)
        await calls.call("ListJobs", b"\x90", 20)
        assert calls.ask(method, msgspec.msgpack.encode(request), lambda reply, error: None)
        calls.close()

    asyncio.run(go())


@nbray.remote(num_cpus=1)
class Actor:
    def pid(self) -> int:
        return os.getpid()


def all_free() -> bool:
    return nbray.available_resources().get("CPU") == 2


def test_an_actor_whose_killer_goes_is_ended(cluster: Path) -> None:
    for _ in range(5):
        actor = Actor.remote()
        pid = nbray.get(actor.pid.remote(), timeout=60)
        ask_and_go("KillActor", KillActorRequest(bytes.fromhex(actor._actor_id.hex()), True, WISH))
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), "its end", 60)
    wait_until(all_free, "its CPU", 60)


def test_a_group_whose_remover_goes_gives_its_bundles_back(cluster: Path) -> None:
    for _ in range(5):
        group = placement_group([{"CPU": 1}, {"CPU": 1}])
        assert group.wait(60)
        ask_and_go("ChangeGroups", ChangeGroups([], [group.id.binary()]))
        wait_until(all_free, "its bundles", 60)


def test_the_actors_of_a_job_end_though_who_told_of_its_end_goes(cluster: Path) -> None:
    actors = [Actor.remote(), Actor.remote()]  # held to the end of this test
    pids = nbray.get([actor.pid.remote() for actor in actors], timeout=60)
    ask_and_go("FinishJob", JobId(joined_core().job.job_id))
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "their end", 60)


def test_work_that_is_done_whole_outlives_who_waits_and_tells_of_its_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        background, go = Background(), asyncio.Event()

        async def fail() -> None:
            await go.wait()
            raise ValueError("nobody waits for it")

        waiting = asyncio.create_task(background.whole(fail()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        while background._tasks:
            await asyncio.sleep(0)
        assert "nobody waits for it" in caplog.text

    asyncio.run(scene())


def test_groups_that_nobody_knows_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_KNOWN_WITHIN_S", 0.05)

    async def story() -> None:
        nothing: Any = None
        groups = table.GroupTable(list, nothing, Store(MemoryBackend()), nothing)
        _, wait = groups.services()["WaitGroups"]
        reply = await wait(WaitGroups([b"%d" % number for number in range(100)]))
        assert {state.state for state in reply.states} == {"REMOVED"}
        assert not groups._changed

    asyncio.run(story())
