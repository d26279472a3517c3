"""The table of actors with raylets that do not answer, and requests that come again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

from nbray.gcs.actors import processes
from nbray.gcs.actors.life import ActorLife, State
from nbray.gcs.actors.table import ActorTable
from nbray.gcs.storage import Store, Table
from nbray.gcs.storage.memory import MemoryBackend
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.gcs_messages import (
    ActorHere,
    ActorsHere,
    ActorStarted,
    CreateActorRequest,
    Empty,
    EndActor,
    KillActorRequest,
    StartActor,
)
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.records import ActorOptions, ActorSpec, Address, JobConfig, NodeInfo

NODE = NodeInfo(b"n" * 28, "127.0.0.1", 1, 1, "here", True, True, {"CPU": 10_000}, {"CPU": 10_000})
DRIVER = Address(b"d" * 28, NODE.node_id, "", "127.0.0.1", 1)
LIVES, LOST, STRANGE = b"lives" * 4, b"lost" * 5, b"strange" * 3
WISH = Cause(CauseKind.KILLED, "a test wished it")


class Raylet:
    """What the GCS asks of the one node; the first ``silent`` questions have no answer."""

    def __init__(self, silent: int = 0) -> None:
        self.silent = silent
        self.ended: list[bytes] = []

    async def call(self, method: str, request: Any, _reply: type, _timeout: float = 0.0) -> Any:
        if self.silent:
            self.silent -= 1
            raise RpcError("it stands still")
        if isinstance(request, StartActor):
            return ActorStarted(Address(os.urandom(28), NODE.node_id, "", "", 1), pid=1)
        if isinstance(request, EndActor):
            self.ended.append(request.actor_id)
            return Empty()
        assert method == "ActorsHere"
        return ActorsHere([ActorHere(LIVES, 0, None), ActorHere(STRANGE, 0, None)])


class Around:
    """Jobs and groups, of which there are none."""

    def job_is_over(self, _job_id: bytes) -> bool:
        return False

    def actor_lost(self, _actor_id: bytes, restarts: bool) -> None:
        """Nothing ends with it."""


def run(raylet: Raylet, case: Callable[[ActorTable, Callable[[bytes], ActorLife]], Awaitable[None]],
        max_restarts: int = 0) -> None:  # fmt: skip
    """Run a case with a table in which `LIVES` and `LOST` are alive."""

    async def with_table() -> None:
        store = Store(MemoryBackend())
        for actor_id in (LIVES, LOST):
            options = ActorOptions({}, max_restarts=max_restarts)
            spec = ActorSpec(actor_id, b"job0", "Actor", b"", b"", (), (), {}, options, DRIVER)
            request = CreateActorRequest(spec, JobConfig(b"job0", "", DRIVER, [], ""))
            Table(store, "actor_specs", CreateActorRequest).put(actor_id, request)
            life = ActorLife(actor_id, max_restarts)
            life.start(Address(actor_id, NODE.node_id, "", "", 1), 1, 1.0)
            Table(store, "actors", ActorLife).put(actor_id, life)
        await store.durable()
        client = cast(GrpcClient, raylet)
        around = cast(Any, Around())
        table = ActorTable(lambda: [NODE], lambda _: client, store, around, lambda *_: None)
        lives = {row.actor_id: row for row in (a.life for a in table._actors.values())}
        async with asyncio.timeout(20):
            await case(table, lives.__getitem__)
        await store.close()

    asyncio.run(with_table())


def test_a_node_that_does_not_answer_at_first_is_compared_later(monkeypatch: Any) -> None:
    monkeypatch.setattr(processes, "_RETRY_S", 0.0)
    raylet = Raylet(silent=3)

    async def case(table: ActorTable, life: Callable[[bytes], ActorLife]) -> None:
        await table.reconcile(NODE)
        assert (life(LIVES).state, life(LOST).state) == (State.ALIVE, State.DEAD)
        assert raylet.ended == [STRANGE]

    run(raylet, case)


def test_a_kill_that_comes_again_after_another_one_is_done_once() -> None:
    async def case(table: ActorTable, life: Callable[[bytes], ActorLife]) -> None:
        _, kill = table.services()["KillActor"]
        for request_id in (b"first...", b"second..", b"first...", b"second..", b"third..."):
            await kill(KillActorRequest(LIVES, False, WISH, request_id))
            while life(LIVES).state is not State.ALIVE:
                await asyncio.sleep(0)
        assert life(LIVES).restarts == 3

    run(Raylet(), case, max_restarts=-1)
