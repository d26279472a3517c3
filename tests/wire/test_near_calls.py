"""Calls over a Unix socket: answered, refused, given up, broken off."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from support.descriptors import no_file_left

from nbray.wire import near_calls
from nbray.wire.call_errors import RpcError
from nbray.wire.gcs_messages import KvKey, KvValue
from nbray.wire.grpc_service import GrpcClient, serve
from nbray.wire.near_calls import (
    MOST_BYTES,
    Handler,
    NearCallError,
    NearCalls,
    NearServer,
    serve_near,
)

TOKEN = b"t" * 32
ASK = msgspec.msgpack.encode(KvKey(b"space", b"key"))


async def echo(request: KvKey) -> KvValue:
    return KvValue(request.key)


def run(
    path: Path,
    what: Callable[[NearServer, NearCalls], Awaitable[None]],
    answer: Handler = echo,
) -> None:
    """Run ``what`` with a server at ``path`` that answers so, and a client."""

    async def both() -> None:
        handlers = {"Ask": (KvKey, answer), "Echo": (KvKey, echo)}
        server = serve_near(str(path), TOKEN, handlers)
        calls = NearCalls(str(path), TOKEN)
        try:
            await what(server, calls)
        finally:
            calls.close()
            server.close()

    asyncio.run(both())


def test_all_who_have_asked_hear_of_the_end_whatever_one_of_them_makes_of_it(
    tmp_path: Path,
) -> None:
    async def stands(_request: KvKey) -> KvValue:
        await asyncio.Event().wait()
        raise AssertionError("never set")

    async def what(server: NearServer, calls: NearCalls) -> None:
        await calls.call("Echo", ASK, 20.0)
        heard: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def fails(_reply: bytes | None, _error: str) -> None:
            raise MemoryError

        assert calls.ask("Ask", ASK, fails)
        assert calls.ask("Ask", ASK, lambda reply, _error: heard.set_result(reply))
        server.close()
        async with asyncio.timeout(20):
            assert await heard is None

    run(tmp_path / "s", what, stands)


def value_of(reply: bytes | None) -> bytes | None:
    assert reply is not None
    return msgspec.msgpack.decode(reply, type=KvValue).value


async def given_up(calls: NearCalls, begun: asyncio.Queue[bytes]) -> None:
    """A call that the other side has begun lasts longer than it may."""
    await calls.call("Echo", ASK, 30.0)
    allowed = 0.05
    while begun.empty():
        with pytest.raises(TimeoutError):
            await calls.call("Ask", ASK, allowed)
        await calls.call("Echo", ASK, 30.0)  # what was asked before has begun now, or never will
        allowed *= 2
    begun.get_nowait()


def test_many_calls_at_once_have_their_own_answers_however_large(tmp_path: Path) -> None:
    keys = [b"%d" % i * (1 if i else 7_000_000) for i in range(200)]

    async def ask_all(_server: NearServer, calls: NearCalls) -> None:
        replies = await asyncio.gather(
            *(calls.call("Ask", msgspec.msgpack.encode(KvKey(b"", key)), 30.0) for key in keys)
        )
        assert [value_of(reply) for reply in replies] == keys

    run(tmp_path / "s", ask_all)


def test_what_fails_there_says_why_here(tmp_path: Path) -> None:
    async def fail(request: KvKey) -> KvValue:
        raise ValueError("no such key")

    async def ask(_server: NearServer, calls: NearCalls) -> None:
        with pytest.raises(NearCallError, match="ValueError: no such key"):
            await calls.call("Ask", ASK, 30.0)
        with pytest.raises(NearCallError, match="no method Tell"):
            await calls.call("Tell", ASK, 30.0)
        with pytest.raises(NearCallError, match="a malformed request: Expected `array`"):
            await calls.call("Ask", msgspec.msgpack.encode(3), 30.0)
        assert await calls.call("Ask", bytes(MOST_BYTES), 30.0) is None  # gRPC says how long it is

    run(tmp_path / "s", ask, fail)


def test_who_does_not_wait_hears_once_of_each_answer_and_of_the_end(tmp_path: Path) -> None:
    heard: asyncio.Queue[tuple[bytes | None, str]]

    def then(reply: bytes | None, error: str) -> None:
        heard.put_nowait((reply, error))

    async def at_once(_server: NearServer, calls: NearCalls) -> None:
        nonlocal heard
        heard = asyncio.Queue()
        assert not calls.ask("Ask", ASK, then)  # nobody has looked for the server yet
        await calls.call("Ask", ASK, 30.0)
        assert calls.ask("Ask", ASK, then) and calls.ask("Tell", ASK, then)
        assert value_of((await heard.get())[0]) == b"key"
        assert await heard.get() == (None, "there is no method Tell")

    run(tmp_path / "s", at_once, lambda request: KvValue(request.key))

    begun = asyncio.Queue[bytes]()

    async def wait(request: KvKey) -> KvValue:
        begun.put_nowait(request.key)
        await asyncio.Event().wait()
        raise AssertionError

    async def broken_off(server: NearServer, calls: NearCalls) -> None:
        nonlocal heard
        heard = asyncio.Queue()
        await given_up(calls, begun)
        assert calls.ask("Ask", ASK, then)
        server.close()
        assert await heard.get() == (None, "")
        assert heard.empty()

    run(tmp_path / "s", broken_off, wait)


def test_what_is_told_unasked_comes_before_later_answers_and_is_seen_while_it_is_unread(
    tmp_path: Path,
) -> None:
    async def tell(server: NearServer, calls: NearCalls) -> None:
        told: list[tuple[str, bytes]] = []
        calls.on_told = lambda kind, body: told.append((kind, body))
        assert calls.heard is None
        await calls.call("Ask", ASK, 30.0)
        connection = calls.heard
        assert connection is not None and connection is calls.connection
        server.tell("news", b"1")
        assert value_of(await calls.call("Ask", ASK, 30.0)) == b"key"
        assert told == [("news", b"1")] and calls.heard is connection
        server.tell("news", b"2")
        await asyncio.sleep(0)  # it is written, and not read yet
        while not told[1:] and calls.heard is not None:
            await asyncio.sleep(0)
        assert told[1:] or calls.heard is None
        assert value_of(await calls.call("Ask", ASK, 30.0)) == b"key"
        assert told[1:] == [("news", b"2")] and calls.heard is connection
        server.close()
        await calls.call("Ask", ASK, 30.0)
        assert calls.heard is None

    run(tmp_path / "s", tell)


def test_what_is_given_up_there_is_no_endless_wait_here(tmp_path: Path) -> None:
    async def give_up(request: KvKey) -> KvValue:
        raise asyncio.CancelledError

    async def ask(_server: NearServer, calls: NearCalls) -> None:
        with pytest.raises(NearCallError, match="given up there"):
            await calls.call("Ask", ASK, 30.0)

    run(tmp_path / "s", ask, give_up)


def test_a_server_that_stands_still_takes_no_longer_than_the_caller_allows(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()

        async def ask() -> None:
            calls = NearCalls(str(tmp_path / "s"), TOKEN)
            with pytest.raises(TimeoutError):
                await calls.call("Ask", ASK, 0.05)
            accepted = await asyncio.to_thread(lambda: silent.accept()[0])
            calls.close()
            with accepted:  # is not kept open for who may never answer
                accepted.settimeout(30)
                assert await asyncio.to_thread(accepted.recv, 1) == b""

        asyncio.run(ask())


def test_who_looked_in_vain_at_a_server_that_stands_still_keeps_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_calls, "_HANDSHAKE_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()

        async def ask() -> None:
            calls = NearCalls(str(tmp_path / "s"), TOKEN)
            assert await calls.call("Ask", ASK, 30.0) is None
            with silent.accept()[0] as accepted:
                accepted.settimeout(30)
                assert await asyncio.to_thread(accepted.recv, 1) == b""
            calls.close()

        asyncio.run(ask())


def test_a_call_that_is_given_up_ends_there_too(tmp_path: Path) -> None:
    begun, ended = asyncio.Queue[bytes](), asyncio.Queue[bytes]()

    async def wait(request: KvKey) -> KvValue:
        begun.put_nowait(request.key)
        try:
            await asyncio.Event().wait()
        finally:
            ended.put_nowait(request.key)
        raise AssertionError

    async def give_up(_server: NearServer, calls: NearCalls) -> None:
        await given_up(calls, begun)
        assert await ended.get() == b"key"
        waiting = asyncio.create_task(calls.call("Ask", ASK, 30.0))
        await begun.get()
        waiting.cancel()
        assert await ended.get() == b"key"
        waiting = asyncio.create_task(calls.call("Ask", ASK, 30.0))
        await begun.get()
        calls.close()
        assert await ended.get() == b"key"
        assert await waiting is None

    run(tmp_path / "s", give_up, wait)


def test_a_server_that_ends_leaves_no_call_without_a_word_and_its_successor_is_found(
    tmp_path: Path,
) -> None:
    begun = asyncio.Queue[bytes]()

    async def wait(request: KvKey) -> KvValue:
        begun.put_nowait(request.key)
        await asyncio.Event().wait()
        raise AssertionError

    async def restart(server: NearServer, calls: NearCalls) -> None:
        waiting = asyncio.create_task(calls.call("Ask", ASK, 30.0))
        await begun.get()
        server.close()
        assert await waiting is None
        assert await calls.call("Ask", ASK, 30.0) is None
        again = serve_near(str(tmp_path / "s"), TOKEN, {"Ask": (KvKey, echo)})
        while (reply := await calls.call("Ask", ASK, 30.0)) is None:
            await asyncio.sleep(0.02)
        assert value_of(reply) == b"key"
        again.close()

    run(tmp_path / "s", restart, wait)


def test_nobody_without_the_token_is_answered_or_believed(tmp_path: Path) -> None:
    async def try_it(_server: NearServer, calls: NearCalls) -> None:
        stranger = NearCalls(str(tmp_path / "s"), b"x" * 32)
        assert await stranger.call("Ask", ASK, 30.0) is None
        for said in (b"", b"GET / HTTP/1.1\r\n", os.urandom(300), struct.pack("<I", 1 << 31)):
            await asyncio.to_thread(say, tmp_path / "s", said)
        assert value_of(await calls.call("Ask", ASK, 30.0)) == b"key"

    run(tmp_path / "s", try_it)


def say(path: Path, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(said)
        sock.recv(16)


def test_a_stranger_at_the_port_of_a_server_that_was_met_near_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another program that was given the port while the server was started again."""
    monkeypatch.setattr(near_calls, "_BACK_IN_S", 0.0)

    async def scene() -> None:
        came = asyncio.Event()

        async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"no TLS")
            writer.close()
            came.set()

        stranger = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = stranger.sockets[0].getsockname()[1]
        near = serve_near(str(tmp_path / "s"), TOKEN, {"Echo": (KvKey, echo)})
        client = GrpcClient(f"127.0.0.1:{port}", TOKEN, 60.0, near=str(tmp_path / "s"))
        await client.call_raw("Echo", ASK)
        near.close()
        call = asyncio.create_task(client.call_raw("Echo", ASK, 60))
        await came.wait()
        stranger.close()
        await stranger.wait_closed()
        server, _ = await serve("127.0.0.1", port, TOKEN, {"Echo": (KvKey, echo)})
        assert await call
        await client.close()
        await server.stop(None)

    asyncio.run(scene())


def test_a_patient_client_of_a_server_that_has_gone_waits_no_longer_than_the_call_may(
    tmp_path: Path,
) -> None:
    async def leave() -> None:
        server = serve_near(str(tmp_path / "s"), TOKEN, {"Echo": (KvKey, echo)})
        client = GrpcClient("127.0.0.1:9", TOKEN, patience_s=60.0, near=str(tmp_path / "s"))
        await client.call_raw("Echo", ASK)
        server.close()
        async with asyncio.timeout(near_calls._BACK_IN_S - 0.5):
            with pytest.raises(RpcError, match="no answer in 0"):
                await client.call_raw("Echo", ASK, 0.3)
        await client.close()

    for _ in range(3):  # a look that is over before a millisecond is goes on to the next one
        asyncio.run(leave())


def test_who_could_not_listen_at_first_does_so_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_calls, "_LOOK_AGAIN_S", 0.01)

    async def story() -> None:
        with no_file_left():
            server = serve_near(str(tmp_path / "s"), TOKEN, {"Echo": (KvKey, echo)})
            await asyncio.sleep(0)
        calls = NearCalls(str(tmp_path / "s"), TOKEN)
        async with asyncio.timeout(30):
            while (answer := await calls.call("Echo", ASK, 30.0)) is None:
                await asyncio.sleep(0.01)
        assert value_of(answer) == b"key"
        calls.close()
        server.close()

    asyncio.run(story())
