"""News between raylets: nothing is lost, told twice or out of order, whatever becomes of calls."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from support.nodes import Far
from support.stopping import stand_still

import nbray
from nbray.raylet.telling import Telling
from nbray.testing import Proxy, wait_until
from nbray.wire.grpc_service import GrpcClient, serve
from nbray.wire.raylet_messages import DropObjects, ProcessGone

TOKEN = b"a token"


class Peer:
    """Another node as a node table knows it, by a way that can be spoilt."""

    def __init__(self) -> None:
        self.reached: GrpcClient | None = None
        self.found_dead = 0

    async def client(self, _node_id: bytes) -> GrpcClient | None:
        self.found_dead += self.reached is None
        return self.reached


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def with_two(story: Callable[[Telling, Peer, Proxy, Telling], Awaitable[None]]) -> None:
    """Run ``story`` with who tells, what it knows of its peer, the way there, and who hears."""

    async def run() -> None:
        peer = Peer()
        hears, tells = Telling(Peer()), Telling(peer)
        server, port = await serve("127.0.0.1", 0, TOKEN, hears.services())
        with Proxy(("127.0.0.1", port)) as way:
            assert isinstance(way.place, tuple)
            peer.reached = client = GrpcClient(f"127.0.0.1:{way.place[1]}", TOKEN)
            await story(tells, peer, way, hears)
            await client.close()
        await server.stop(None)

    asyncio.run(run())


def test_what_breaks_off_is_told_again_in_order_and_done_once() -> None:
    async def story(tells: Telling, _peer: Peer, way: Proxy, hears: Telling) -> None:
        heard: list[bytes] = []

        def take(news: ProcessGone) -> None:
            heard.append(news.worker_id)
            if len(heard) % 20 == 3:
                way.cut()  # it was heard, and its answer is lost

        hears.handlers = {
            ProcessGone: take,
            DropObjects: lambda news: heard.extend(news.object_ids),
        }
        for i in range(50):
            tells.tell(b"node", ProcessGone(b"%d" % (2 * i)))
            tells.tell(b"node", DropObjects([b"%d" % (2 * i + 1)]))
            await asyncio.sleep(0)
        await until(lambda: len(heard) >= 100)
        tells.tell(b"node", ProcessGone(b"last"))
        await until(lambda: heard[-1] == b"last")
        assert heard == [*(b"%d" % i for i in range(100)), b"last"]

    with_two(story)


def test_a_node_that_cannot_be_reached_hears_later_and_a_dead_one_is_not_waited_for() -> None:
    async def story(tells: Telling, peer: Peer, way: Proxy, hears: Telling) -> None:
        heard: list[bytes] = []
        hears.handlers = {ProcessGone: lambda news: heard.append(news.worker_id)}
        way.refuse()
        for i in range(3000):  # more than one call takes along
            tells.tell(b"node", ProcessGone(b"%d" % i))
        await asyncio.sleep(0)
        way.refuse(False)
        await until(lambda: len(heard) == 3000)
        assert heard == [b"%d" % i for i in range(3000)]
        way.refuse()
        way.cut()
        tells.tell(b"node", ProcessGone(b"never heard"))
        client, peer.reached = peer.reached, None  # it is dead now
        await until(lambda: peer.found_dead > 0)
        way.refuse(False)
        peer.reached = client
        tells.tell(b"node", ProcessGone(b"after"))
        await until(lambda: heard[-1] == b"after")
        assert heard[3000:] == [b"after"]

    with_two(story)


def test_one_piece_that_fails_does_not_keep_the_rest() -> None:
    async def story(tells: Telling, _peer: Peer, _way: Proxy, hears: Telling) -> None:
        heard: list[bytes] = []

        def take(news: ProcessGone) -> None:
            if news.worker_id == b"bad":
                raise KeyError(news.worker_id)
            heard.append(news.worker_id)

        hears.handlers = {ProcessGone: take}
        for name in (b"a", b"bad", b"b"):
            tells.tell(b"node", ProcessGone(name))
        await until(lambda: heard == [b"a", b"b"])

    with_two(story)


def test_two_senders_have_numbers_of_their_own() -> None:
    async def story(tells: Telling, peer: Peer, _way: Proxy, hears: Telling) -> None:
        heard: list[bytes] = []
        hears.handlers = {ProcessGone: lambda news: heard.append(news.worker_id)}
        for i in range(5):
            tells.tell(b"node", ProcessGone(b"%d" % i))
            await until(lambda i=i: len(heard) > i)
        Telling(peer).tell(b"node", ProcessGone(b"of another"))  # as of a raylet that began anew
        await until(lambda: heard[-1] == b"of another")

    with_two(story)


def _objects_there() -> float:
    rows = [row for row in nbray.nodes() if row["Alive"] and "far" in row["Resources"]]
    return sum(row["Stats"]["objects"] for row in rows)


@pytest.mark.slow
def test_values_go_also_where_a_raylet_stood_still_for_longer_than_a_call_lasts(far: Far) -> None:
    make = nbray.remote(lambda: np.ones(300_000)).options(resources={"far": 1})
    ref = make.remote()
    nbray.wait([ref], fetch_local=False)
    wait_until(lambda: _objects_there() == 1, "the value to be there")
    assert far.node is not None
    pid = far.node.children[-1].pid
    stand_still(pid)
    try:
        del ref
        time.sleep(12)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: _objects_there() == 0, "the value to go")
