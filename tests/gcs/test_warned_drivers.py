"""A driver is warned of what waits also when its node does not answer at that moment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbray.common.config import Config
from nbray.gcs import server
from nbray.gcs.server import GcsServer
from nbray.gcs.storage import open_store
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import RpcError
from nbray.wire.records import Address, JobConfig


class Raylet:
    """That of the driver's node: it answers the third time."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.told = asyncio.Event()

    async def call(self, method: str, request: Any, _reply: type) -> g.Empty:
        assert method == "WarnJob"
        self.asked.append(request)
        if len(self.asked) < 3:
            raise RpcError("no answer in 10 s")
        self.told.set()
        return g.Empty()


def test_a_warning_is_given_once_more_and_nothing_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_AGAIN_S", 0.0, raising=False)

    async def scene() -> None:
        store = open_store("memory", tmp_path)
        gcs, raylet = GcsServer(b"t" * 32, Config(), store, lambda _: ""), Raylet()
        node = SimpleNamespace(alive=True)
        monkeypatch.setattr(gcs.nodes, "get", lambda _node_id: node)
        monkeypatch.setattr(gcs.nodes, "client", lambda _node: raylet)
        job = JobConfig(b"job1", "", Address(b"d" * 28, b"n" * 28, "", "", 0), [], "")
        monkeypatch.setattr(gcs._jobs, "is_over", lambda _job_id: False)
        await gcs.warn(job, "It needs what no node has.", 7)
        assert not raylet.asked
        async with asyncio.timeout(20):
            await raylet.told.wait()
        assert raylet.asked[-1] == g.WarnJob(b"job1", "It needs what no node has.", 7)
        await store.close()

    asyncio.run(scene())
