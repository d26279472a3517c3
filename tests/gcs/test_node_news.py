"""What the GCS tells raylets of each other, and what they take for true."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from nbray.gcs.nodes.life import NodeLife
from nbray.gcs.nodes.news import NodeNews
from nbray.raylet.nodes import NodeTable, watch_nodes
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient
from nbray.wire.records import NodeInfo

OWN = b"own"


def row(name: bytes, cpus: int = 4) -> NodeInfo:
    return NodeInfo(name, "127.0.0.1", 1, 1, "here", False, True, {"CPU": 4}, {"CPU": cpus})


class Gcs:
    """The tables behind `NodeNews`, and a caller of it."""

    def __init__(self) -> None:
        self.lives: dict[bytes, NodeLife] = {}
        self.news = NodeNews(self.lives, self.lives)

    def join(self, name: bytes) -> NodeInfo:
        self.lives[name] = NodeLife(row(name))
        self.news.joined(self.lives[name].row)
        return self.lives[name].row

    def report(self, name: bytes, cpus: int) -> None:
        self.lives[name].report(row(name, cpus), 0.0)
        self.news.reported(self.lives[name].row)

    async def call(self, method: str, request: Any, reply_type: Any, timeout: float = 10.0) -> Any:
        if method == "ListNodes":
            answer: Any = self.news.listed([life.row for life in self.lives.values()])
        else:
            answer = await asyncio.wait_for(self.news.watch(request), timeout)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=reply_type)


class Raylet:
    """The table of one, which asks a GCS."""

    def __init__(self, gcs: Gcs) -> None:
        self.gcs = gcs
        self.table = NodeTable(OWN, cast(GrpcClient, gcs), b"")
        self.seen = g.WatchNodes(OWN)

    async def hear(self) -> list[bytes]:
        changes = await self.gcs.call("WatchNodes", self.seen, g.NodeChanges)
        self.seen = g.WatchNodes(OWN, changes.epoch, changes.members, changes.rooms)
        return self.table.apply(changes)

    def free(self) -> dict[bytes, int]:
        return {node.node_id: node.available["CPU"] for node in self.table.others()}


def test_who_heard_of_a_node_that_the_gcs_had_charged_hears_when_it_has_that_room_again() -> None:
    async def check() -> None:
        gcs = Gcs()
        gcs.join(b"a").available["CPU"] = 1  # for an actor, which then does not start
        new, old, other = Raylet(gcs), Raylet(gcs), Raylet(gcs)
        await other.hear()
        gcs.report(b"a", 4)
        await other.hear()
        gcs.lives[b"a"].row.available["CPU"] = 1
        await new.hear()
        await old.table.look_up()
        assert new.free() == old.free() == {b"a": 1}
        gcs.report(b"a", 4)
        await new.hear()
        assert new.free() == {b"a": 4}
        gcs.lives[b"a"].row.available["CPU"] = 1
        await new.table.look_up()
        assert new.free() == {b"a": 1}
        gcs.report(b"a", 4)
        await new.hear()
        assert new.free() == {b"a": 4}

    asyncio.run(check())


def test_a_list_of_nodes_that_news_have_overtaken_kills_nobody_and_undoes_nothing() -> None:
    class Slow(Gcs):
        """A list of nodes takes a while on its way."""

        def __init__(self) -> None:
            super().__init__()
            self.made, self.arrives = asyncio.Event(), asyncio.Event()

        async def call(
            self, method: str, request: Any, reply_type: Any, timeout: float = 10.0
        ) -> Any:
            answer = await super().call(method, request, reply_type, timeout)
            if method == "ListNodes":
                self.made.set()
                await self.arrives.wait()
            return answer

    async def check() -> None:
        gcs = Slow()
        raylet = Raylet(gcs)
        gcs.join(b"a")
        await raylet.hear()
        gcs.join(b"unheard")
        asking = asyncio.create_task(raylet.table.look_up())
        await gcs.made.wait()
        gcs.join(b"late")
        gcs.report(b"a", 2)
        await raylet.hear()
        gcs.arrives.set()
        assert await asking == []
        assert raylet.free() == {b"a": 2, b"unheard": 4, b"late": 4}
        gcs.report(b"late", 3)
        await raylet.hear()
        assert raylet.free() == {b"a": 2, b"unheard": 4, b"late": 3}

    asyncio.run(check())


def test_news_that_were_not_taken_in_come_again() -> None:
    async def check() -> None:
        gcs, taken = Gcs(), list[g.NodeChanges]()
        gcs.join(b"a")
        again = asyncio.Event()

        def take(changes: g.NodeChanges) -> None:
            taken.append(changes)
            if len(taken) == 1:
                raise OSError("no descriptor is left")
            again.set()

        watching = asyncio.create_task(watch_nodes(OWN, cast(GrpcClient, gcs), take))
        async with asyncio.timeout(30):
            await again.wait()
        watching.cancel()
        assert [node.node_id for node in taken[1].nodes] == [b"a"]
        assert taken[1].complete

    asyncio.run(check())
