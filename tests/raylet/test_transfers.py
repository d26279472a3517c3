"""Objects between raylets: the bytes arrive whole, from whom is asked, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.descriptors import no_file_left
from support.no_threads import no_thread_left

from nbray.common.config import Config
from nbray.launcher.tls import TlsFiles
from nbray.object_store.arena import Arena
from nbray.object_store.neighbour import machine_id, place_of
from nbray.raylet.objects import receiver as receiver_module
from nbray.raylet.objects.admission import Admission
from nbray.raylet.objects.local_store import LocalStore
from nbray.raylet.objects.receiver import ObjectReceiver, TransferError
from nbray.raylet.objects.sender import Answer, Elsewhere, Nearby, ObjectSender, Part
from nbray.wire.aio import serve_tcp
from nbray.wire.bulk import LINK_ID, NO_MACHINE, Place, Request
from nbray.wire.certificates import Authority
from nbray.wire.handshake import ClientHandshake
from nbray.wire.link import Opening
from nbray.wire.tls import Tls

MB = 1 << 20
TOKEN = os.urandom(16)
SIZE = 64 * MB


class Frames:
    """Whoever has the frame wire of the port: it hears nothing here."""

    def on_message(self, conn: Any, message: Any) -> None:
        raise AssertionError("a message came")

    def on_broken(self, conn: Any) -> None:
        raise AssertionError("a link broke")

    def on_closed(self, conn: Any, reason: str) -> None:
        raise AssertionError("a link ended")


class Store:
    """An object in a file, and how many of its parts are held."""

    def __init__(self) -> None:
        self.data = os.urandom(MB) * (SIZE // MB)
        self.held = 0
        self.most_held = 0
        self.asked: list[Request] = []
        self.answer: Callable[[Request], Awaitable[Answer]] = self.part

    async def part(self, request: Request) -> Part:
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        return Part(self.view(request), self.release)

    def view(self, request: Request) -> memoryview:
        return memoryview(self.data)[request.offset : request.offset + request.length]

    def release(self, _came: bool) -> None:
        self.held -= 1

    async def find(self, request: Request) -> Answer:
        self.asked.append(request)
        return await self.answer(request)

    def find_now(self, request: Request) -> Answer | None:
        """What needs no wait."""
        answer = self.answer(request)
        assert isinstance(answer, Coroutine)
        try:
            answer.send(None)
        except StopIteration as known:
            self.asked.append(request)
            return known.value  # type: ignore[no-any-return]
        answer.close()
        return None


TLS: list[Tls | None] = [None]
"""What the sockets of a test are under."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder, authority = tmp_path_factory.mktemp("tls"), Authority.new()
    authority.pair.write(folder, "ca")
    authority.sign(["localhost"], 10).write(folder, "node")
    return TlsFiles(folder / "node.crt", folder / "node.key", folder / "ca.crt").tls


@pytest.fixture(autouse=True, params=["plain", pytest.param("tls", marks=pytest.mark.slow)])
def under(request: pytest.FixtureRequest, certificates: Tls) -> Iterator[None]:
    """Each test on plain sockets, and under TLS."""
    TLS[0] = certificates if request.param == "tls" else None
    yield
    TLS[0] = None


@asynccontextmanager
async def sending(store: Store) -> AsyncIterator[Callable[..., ObjectReceiver]]:
    """A raylet's port that sends what the store has, and receivers of it."""
    sender = ObjectSender(store.find, store.find_now, stall_s=5.0)
    server = serve_tcp("127.0.0.1", 0, TOKEN, Frames(), sender.take, TLS[0])
    port = server.port
    made: list[ObjectReceiver] = []
    others: dict[bytes, ObjectReceiver] = {}

    def receiver(token: bytes = TOKEN, stall_s: float = 20.0) -> ObjectReceiver:
        made.append(
            ObjectReceiver("its node 0", "127.0.0.1", port, token, TLS[0], 5.0, stall_s, others.get)
        )
        return made[-1]

    try:
        yield receiver
    finally:
        for each in made:
            each.close()
        sender.stop()
        server.close()


def request(offset: int = 0, length: int = SIZE) -> Request:
    return Request(b"o" * 28, b"n" * 28, offset, length)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def run(case: Callable[[Store, Callable[..., ObjectReceiver]], Awaitable[None]]) -> None:
    async def with_store() -> None:
        store = Store()
        async with sending(store) as receiver:
            await case(store, receiver)
            await until(lambda: store.held == 0)

    asyncio.run(with_store())


def test_parts_that_come_at_once_are_whole_and_right() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        one, target, length = receiver(), bytearray(SIZE), 3 * MB + 17
        view = memoryview(target)
        await asyncio.gather(
            *(
                one.fetch(request(at, len(view[at : at + length])), view[at : at + length])
                for at in range(0, SIZE, length)
            )
        )
        assert target == store.data and one.received == SIZE
        assert 1 < store.most_held <= 4

    run(case)


def test_what_is_not_there_is_told_and_the_socket_goes_on() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        async def refuse(_request: Request) -> str:
            return "it is not on node 0 any more: caf\udce9"

        one, target = receiver(), bytearray(MB)
        for _ in range(20):
            store.answer = refuse
            with pytest.raises(TransferError, match="not on node 0 any more"):
                await one.fetch(request(0, MB), memoryview(target))
            store.answer = store.part
            await one.fetch(request(MB, MB), memoryview(target))
            assert target == store.data[MB : 2 * MB]

    run(case)


@pytest.mark.parametrize("at_once", [True, False])
def test_who_asks_does_not_wait_for_what_failed_there(at_once: bool) -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        async def fail(_request: Request) -> Answer:
            if not at_once:
                await asyncio.sleep(0)
            raise RuntimeError("it has no thread")

        store.answer, good = fail, store.answer
        one = receiver(stall_s=60.0)
        async with asyncio.timeout(20):
            with pytest.raises(TransferError, match="the connection to its node 0"):
                await one.fetch(request(0, MB), memoryview(bytearray(MB)))
        store.answer, target = good, bytearray(MB)
        await one.fetch(request(0, MB), memoryview(target))
        assert target == store.data[:MB]

    run(case)


def test_a_socket_that_cannot_be_handed_over_now_is_closed_and_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if TLS[0] is not None:
        return  # what is done is the same

    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, receiver()._place)
            member = ClientHandshake(TOKEN, sock.getpeername)
            hello = await loop.sock_recv(sock, member.hello_bytes)
            await loop.sock_sendall(sock, member.answer(hello))
            member.check(await loop.sock_recv(sock, member.proof_bytes))
            with no_file_left():
                await loop.sock_sendall(sock, Opening(LINK_ID).pack())
                assert await loop.sock_recv(sock, 1) == b""
        await receiver().fetch(request(0, MB), memoryview(bytearray(MB)))

    run(case)
    assert "cannot be handed over: [Errno 24]" in caplog.text


def test_a_value_on_disk_that_cannot_be_mapped_now_is_held_for_nobody(tmp_path: Path) -> None:
    async def scene() -> None:
        store = LocalStore(b"n" * 28, 16 * MB, tmp_path, Config())
        place = await store.files.new_value(MB, 8 * MB)
        store.table.create_on_disk(b"o" * 28, MB, b"w" * 28, b"n" * 28, place)
        with no_file_left(), pytest.raises(OSError, match="Too many open files"):
            store.lend(b"o" * 28, 0, MB)
        stored = store.locate(b"o" * 28)
        assert stored is not None and not stored.pins
        part = store.lend(b"o" * 28, 0, MB)
        assert isinstance(part, Part)
        part.end(True)
        assert not stored.pins
        store.stop()

    asyncio.run(scene())


def test_a_file_for_a_copy_that_cannot_be_mapped_takes_no_room(tmp_path: Path) -> None:
    async def scene() -> None:
        store = LocalStore(b"n" * 28, 16 * MB, tmp_path, Config())
        first = await store.files.new_value(MB // 8, 8 * MB)
        with no_file_left(), pytest.raises(OSError, match="Too many open files"):
            await store.file_for_copy(MB // 8)
        path = Path(store.files.path(first))
        assert path.exists()
        store.files.drop(first)  # the last value of its file
        async with asyncio.timeout(60):
            while path.exists():
                await asyncio.sleep(0.01)
        store.stop()

    asyncio.run(scene())


def test_without_a_thread_the_disk_fails_and_does_not_later(tmp_path: Path) -> None:
    async def scene() -> None:
        store = LocalStore(b"n" * 28, 16 * MB, tmp_path, Config(spill_retry_s=0.0))
        with no_thread_left():
            assert await store._spiller.place(MB) is None
        assert await store._spiller.place(MB) is not None
        store.stop()

    asyncio.run(scene())


def test_a_part_whose_connection_is_cut_comes_again() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        one, target = receiver(), bytearray(SIZE)

        async def cut_at_first(asked: Request) -> Answer:
            if not store.asked:
                for sock in list(one._busy):
                    sock.shutdown(socket.SHUT_RDWR)
            return await store.part(asked)

        store.answer = cut_at_first
        await one.fetch(request(), memoryview(target))
        assert target == store.data
        assert len(store.asked) >= 2

    run(case)


def test_an_object_is_held_until_its_bytes_have_arrived() -> None:
    """What a socket sends out of a file is read when it leaves, and that is later."""

    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        one, target = receiver(), bytearray(SIZE)
        view = memoryview(target)
        seen: list[bytes] = []

        def release(came: bool) -> None:
            seen.append(bytes(view[-1:]))
            store.release(came)

        async def part(asked: Request) -> Part:
            store.held += 1
            return Part(store.view(asked), release)

        store.answer = part
        await one.fetch(request(), view)
        await until(lambda: bool(seen))
        assert seen == [store.data[-1:]]

    run(case)


def test_a_reader_that_ends_holds_nothing() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        one, target = receiver(), bytearray(SIZE)

        async def end(asked: Request) -> Answer:
            one.close()
            return await store.part(asked)

        store.answer = end
        with pytest.raises(TransferError):
            await one.fetch(request(), memoryview(target))

    run(case)


def test_a_node_that_stands_still_is_given_up_and_stops_no_other() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        still = asyncio.Event()

        async def wait(asked: Request) -> Answer:
            if asked.length == MB:
                await still.wait()
                return "too late"
            return await store.part(asked)

        store.answer = wait
        slow, quick = receiver(stall_s=1.0), receiver()
        waiting = [
            asyncio.create_task(slow.fetch(request(0, MB), memoryview(bytearray(MB))))
            for _ in range(8)
        ]
        target = bytearray(SIZE)
        await quick.fetch(request(), memoryview(target))
        assert target == store.data
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, TransferError) and "too long" in str(error)
        still.set()

    run(case)


def test_a_node_that_is_dead_is_not_waited_for() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        never = asyncio.Event()

        async def wait(_request: Request) -> str:
            await never.wait()
            return ""

        store.answer = wait
        one = receiver(stall_s=600.0)
        waiting = asyncio.create_task(one.fetch(request(), memoryview(bytearray(SIZE))))
        await until(lambda: bool(store.asked))
        one.close()
        async with asyncio.timeout(10):
            with pytest.raises(TransferError):
                await waiting
        with pytest.raises(TransferError, match="dead"):
            await one.fetch(request(), memoryview(bytearray(SIZE)))
        never.set()

    run(case)


def test_a_receiver_is_idle_only_when_nothing_is_on_its_way() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        may_answer = asyncio.Event()

        async def wait(asked: Request) -> Part:
            await may_answer.wait()
            return await store.part(asked)

        store.answer = wait
        one = receiver()
        assert one.is_idle(0.0)
        waiting = asyncio.create_task(one.fetch(request(), memoryview(bytearray(SIZE))))
        await until(lambda: bool(store.asked))
        assert not one.is_idle(0.0)
        may_answer.set()
        await waiting
        assert one.is_idle(0.0) and not one.is_idle(60.0)

    run(case)


def test_who_has_not_the_token_is_sent_nothing() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        with pytest.raises(TransferError, match="token"):
            await receiver(b"a guess, 16 char").fetch(request(0, MB), memoryview(bytearray(MB)))
        assert not store.asked

    run(case)


def test_a_part_that_another_node_gives_is_fetched_there_and_told() -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        ended: list[bool] = []

        async def elsewhere(asked: Request) -> Answer:
            return await store.part(asked) if asked.sent_on else Elsewhere(b"b" * 28, ended.append)

        store.answer = elsewhere
        first, target = receiver(), bytearray(MB)
        named = receiver()
        first._other = {b"b" * 28: named}.get
        for _ in range(3):
            await first.fetch(request(MB, MB), memoryview(target))
            assert target == store.data[MB : 2 * MB]
        await until(lambda: ended == [True] * 3)
        assert (first.received, named.received) == (0, 3 * MB)

    run(case)


@pytest.mark.parametrize("is_dead", [False, True])
def test_a_part_that_the_named_node_does_not_give_comes_from_the_one_that_named_it(
    is_dead: bool,
) -> None:
    async def case(store: Store, receiver: Callable[..., ObjectReceiver]) -> None:
        ended: list[bool] = []

        async def answer(asked: Request) -> Answer:
            if asked.sent_on:
                return "it is not here any more"
            return await store.part(asked) if ended else Elsewhere(b"b" * 28, ended.append)

        store.answer = answer
        first, target = receiver(), bytearray(SIZE)
        named = receiver()
        if is_dead:
            named.close()
        first._other = {b"b" * 28: named}.get
        await first.fetch(request(), memoryview(target))
        assert target == store.data and ended == [False]

    run(case)


def test_as_many_bytes_are_on_their_way_as_the_store_can_spare_and_in_order() -> None:
    async def case() -> None:
        admission = Admission(100)
        began: list[int] = []

        async def fetch(number: int, size: int) -> None:
            await admission.enter(size)
            began.append(number)

        await admission.enter(500)  # larger than the limit, and alone
        tasks = [asyncio.create_task(fetch(i, size)) for i, size in enumerate([60, 60, 40, 10])]
        await asyncio.sleep(0)
        assert began == []
        tasks[2].cancel()
        admission.leave(500)
        await until(lambda: began == [0])
        admission.leave(60)
        await until(lambda: began == [0, 1, 3])

    asyncio.run(case())


# --- out of memory of the same machine --------------------


@asynccontextmanager
async def lending(
    size: int,
) -> AsyncIterator[tuple[Store, Callable[..., ObjectReceiver], memoryview]]:
    """As `sending`, of a store whose object lies in an arena that this machine may read."""
    store, arena = Store(), Arena.create(2 * size)
    block = arena.view(size, size)
    block[:] = store.data[:size]

    async def answer(asked: Request) -> Answer:
        part = await store.part(asked)
        if asked.machine == NO_MACHINE:
            return part
        return Nearby(place_of(arena, size + asked.offset), part.end)

    store.answer = answer
    async with sending(store) as receiver:
        yield store, receiver, block
        await until(lambda: store.held == 0)


def near(offset: int, length: int) -> Request:
    return replace(request(offset, length), machine=machine_id())


def test_parts_are_copied_out_of_memory_of_the_same_machine() -> None:
    async def case() -> None:
        async with lending(SIZE) as (store, receiver, _block):
            one, target, length = receiver(), bytearray(SIZE), 3 * MB + 17
            view, prepared = memoryview(target), []
            assert not one.is_near
            await asyncio.gather(
                *(
                    one.fetch(
                        near(at, len(view[at : at + length])), view[at : at + length],
                        partial(prepared.append, at),
                    )
                    for at in range(0, SIZE, length)
                )
            )  # fmt: skip
            await one.fetch(near(0, 0), memoryview(bytearray()))
            assert target == store.data and one.received == SIZE
            assert one.is_near and sorted(prepared) == list(range(0, SIZE, length))

    asyncio.run(case())


@pytest.mark.parametrize("wrong", ["no path", "another inode", "another size", "not so large"])
def test_memory_that_cannot_be_read_comes_by_the_socket(wrong: str) -> None:
    async def case() -> None:
        async with lending(MB) as (store, receiver, _block):
            right = store.answer

            async def answer(asked: Request) -> Answer:
                said = await right(asked)
                if not isinstance(said, Nearby):
                    return said
                place = said.place
                changed = {
                    "no path": replace(place, path="/proc/1/fd/caf\u00e9"),
                    "another inode": replace(place, inode=place.inode + 1),
                    "another size": replace(place, size=place.size - 1),
                    "not so large": replace(place, offset=place.size),
                }
                return Nearby(changed[wrong], said.end)

            store.answer = answer
            one, target = receiver(), bytearray(MB)
            for _ in range(2):
                await one.fetch(near(0, MB), memoryview(target))
            assert target == store.data[:MB]
            assert [asked.machine != NO_MACHINE for asked in store.asked] == [True, False, False]

    asyncio.run(case())


def test_memory_that_could_not_be_read_for_a_moment_is_read_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a raylet that had no descriptor to map it."""
    monkeypatch.setattr(receiver_module, "_MEMORY_AGAIN_S", 0.0, raising=False)

    async def case() -> None:
        async with lending(MB) as (store, receiver, _block):
            one, target = receiver(), bytearray(MB)
            with monkeypatch.context() as short:
                short.setattr(receiver_module, "Neighbour", short_of_files)
                with contextlib.suppress(TransferError):
                    await one.fetch(near(0, MB), memoryview(target))
            await one.fetch(near(0, MB), memoryview(target))
            assert target == store.data[:MB] and one.is_near

    asyncio.run(case())


def short_of_files(_place: Place) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def test_what_was_copied_counts_only_if_it_was_held_so_long() -> None:
    """Who lends gives the memory to another value as soon as the connection has been reset."""

    async def case() -> None:
        async with lending(4 * MB) as (store, receiver, block):
            right, one = store.answer, receiver()
            loop, chance = asyncio.get_running_loop(), random.Random(7)

            def cut() -> None:
                for sock in list(one._busy):
                    sock.shutdown(socket.SHUT_RDWR)

            async def answer(asked: Request) -> Answer:
                said = await right(asked)
                assert isinstance(said, Nearby)
                block[:] = store.data[: 4 * MB]

                def end(came: bool) -> None:
                    block[:] = bytes(4 * MB)
                    said.end(came)

                if len(store.asked) % 2:
                    loop.call_later(chance.random() / 1000, cut)
                return Nearby(said.place, end)

            store.answer = answer
            for _ in range(20):
                target = bytearray(4 * MB)
                await one.fetch(near(0, 4 * MB), memoryview(target))
                assert target == store.data[: 4 * MB]

    asyncio.run(case())
