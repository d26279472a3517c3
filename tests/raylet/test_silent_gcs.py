"""What a raylet asks of a GCS that does not answer in time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nbray.raylet import delivery
from nbray.raylet.jobs import Jobs
from nbray.raylet.process import Process
from nbray.raylet.workers import groups
from nbray.raylet.workers.groups import GroupManager
from nbray.wire import gcs_messages as g
from nbray.wire import group_messages as gm
from nbray.wire import messages as m
from nbray.wire.grpc_service import RefusedError, RpcError
from nbray.wire.records import Address


class Gcs:
    """Answers once what it was asked before has run out."""

    def __init__(self, error: Exception) -> None:
        self.errors = [error, error]
        self.asked: list[tuple[list[bytes], list[bytes]]] = []

    async def call(self, method: str, request: Any, _type: Any, _timeout: float = 0) -> Any:
        assert method == "ChangeGroups"
        self.asked.append(([spec.group_id for spec in request.create], request.remove))
        if self.errors:
            raise self.errors.pop()
        states = [gm.GroupState(spec.group_id, "CREATED") for spec in request.create]
        return g.GroupStates(states)


@pytest.mark.parametrize(
    "error", [RpcError("no answer"), RefusedError("another cluster"), MemoryError()]
)
def test_what_it_may_have_made_is_removed_and_removals_are_not_forgotten(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(groups, "_AGAIN_S", 0.0)
    gcs, told = Gcs(error), list[tuple[bytes, str]]()
    none = cast(Any, None)
    manager = GroupManager(cast(Any, gcs), none, none, none, none)
    process = cast(
        Process, SimpleNamespace(send=lambda state: told.append((state.group_id, state.state)))
    )

    def create(group_id: bytes) -> None:
        spec = cast(Any, SimpleNamespace(group_id=group_id))
        manager.create(process, gm.CreateGroup(spec))

    async def scenario() -> None:
        manager.remove(process, gm.RemoveGroup(b"old"))
        create(b"new")
        await asyncio.sleep(0)
        while manager._passing:
            await asyncio.sleep(0)
        create(b"next")
        await manager.settled()
        while manager._passing:
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert gcs.asked[0] == ([b"new"], [b"old"])
    assert (b"new", "REMOVED") in told
    if isinstance(error, RefusedError):  # nobody there knows of them
        assert len(gcs.asked) == 2
    else:
        assert gcs.asked[1:] == [([], [b"old", b"new"]), ([], [b"old", b"new"]), ([b"next"], [])]
        assert told[-1] == (b"next", "CREATED")


def test_a_report_is_delivered_whatever_a_call_has_run_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "_AGAIN_S", 0.0)
    errors = [RpcError("no answer"), MemoryError(), ValueError("odd")]

    async def call(*_of_it: Any) -> g.Empty:
        if errors:
            raise errors.pop()
        return g.Empty()

    gcs: Any = SimpleNamespace(call=call)
    assert asyncio.run(delivery.deliver(gcs, "WorkerDied", None, "A death", g.Empty))


def test_a_job_that_it_may_have_made_for_a_driver_that_is_refused_ends() -> None:
    asked: list[tuple[str, Any]] = []
    ended = asyncio.Event()

    async def call(method: str, request: Any, reply: Any, _timeout: float = 0) -> Any:
        asked.append((method, request))
        if len(asked) == 1:
            raise RpcError("no answer")
        if method == "FinishJob":
            ended.set()
            return g.Empty()
        return g.JobId(b"made")

    async def end_workers(_job_id: bytes) -> None:
        return

    async def story() -> None:
        sent: list[Any] = []
        gcs: Any = SimpleNamespace(call=call)
        jobs = Jobs(b"node", gcs, lambda _driver: None, end_workers)
        process = cast(Process, SimpleNamespace(send=sent.append, closed=False))
        driver = Address(b"driver", b"node", "", "", 0)
        await jobs.register(process, m.RegisterDriver(driver, 1, "", [], "", "program"))
        assert sent[0].error == "no answer"
        await asyncio.wait_for(ended.wait(), 20)

    asyncio.run(story())
    assert [method for method, _ in asked] == ["RegisterJob", "RegisterJob", "FinishJob"]
    assert asked[0] == asked[1] and asked[2][1] == g.JobId(b"made")
