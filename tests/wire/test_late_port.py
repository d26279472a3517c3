"""A port whose gRPC server starts with the first caller, who loses nothing by it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import nbray
from nbray.driver.joining import find_session
from nbray.testing import processes_of
from nbray.wire import grpc_service
from nbray.wire.gcs_messages import Empty, KvKey, KvValue
from nbray.wire.grpc_service import CallServer, GrpcClient, RpcError, serve
from nbray.wire.knock import knock
from nbray.wire.near_calls import Handlers
from nbray.wire.tcp import give_to_next

TOKEN = b"t" * 32


def echo(request: KvKey) -> KvValue:
    return KvValue(request.key)


def connections_to(port: int) -> int:
    """How many this process has there, as who connected."""
    return sum(
        there.status == psutil.CONN_ESTABLISHED and bool(there.raddr) and there.raddr.port == port
        for there in psutil.Process().net_connections("tcp")
    )


async def server_and_client(patience_s: float = 0.0) -> tuple[CallServer, GrpcClient]:
    server, port = await serve("127.0.0.1", 0, TOKEN, {"Echo": (KvKey, echo)})
    return server, GrpcClient(f"127.0.0.1:{port}", TOKEN, patience_s)


def test_who_comes_first_is_answered_and_so_are_those_after_him() -> None:
    async def scene() -> None:
        server, first = await server_and_client()
        large = os.urandom(20 << 20)
        answers = await asyncio.gather(
            *(first.call("Echo", KvKey(b"", key), KvValue, 60) for key in (b"a", large, b"b"))
        )
        assert [answer.value for answer in answers] == [b"a", large, b"b"]
        assert (await first.call("Echo", KvKey(b"", b"c"), KvValue)).value == b"c"
        code = (
            "import asyncio, sys\n"
            "from nbray.wire.gcs_messages import KvKey, KvValue\n"
            "from nbray.wire.grpc_service import GrpcClient\n"
            "async def call():\n"
            "    client = GrpcClient(sys.argv[1], b't' * 32)\n"
            "    print((await client.call('Echo', KvKey(b'', b'later'), KvValue)).value)\n"
            "    await client.close()\n"
            "asyncio.run(call())\n"
        )
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, first.address, stdout=subprocess.PIPE
        )
        said, _ = await other.communicate()
        assert said == b"b'later'\n"
        await server.stop(None)
        with pytest.raises(RpcError):
            await first.call("Echo", KvKey(b"", b"d"), KvValue)
        await first.close()

    asyncio.run(scene())


def test_who_came_before_the_server_is_not_passed_on_for_long_and_loses_no_call() -> None:
    asked: list[bytes] = []

    async def slow(request: KvKey) -> KvValue:
        asked.append(request.key)
        await has_moved.wait()
        return KvValue(request.key)

    has_moved = asyncio.Event()

    async def scene() -> None:
        methods: Handlers = {"Echo": (KvKey, echo), "Slow": (KvKey, slow)}
        server, port = await serve("127.0.0.1", 0, TOKEN, methods)
        client = GrpcClient(f"127.0.0.1:{port}", TOKEN)
        waiting = asyncio.create_task(client.call("Slow", KvKey(b"", b"slow"), KvValue, 60))
        while not asked or connections_to(port) < 2:
            await client.call("Echo", KvKey(b"", b"x"), KvValue)
        assert server._port._passed_on  # as long as the old call takes
        has_moved.set()
        assert (await waiting).value == b"slow"
        while server._port._passed_on:
            await asyncio.sleep(0.01)
        assert asked == [b"slow"]
        await client.close()
        await server.stop(None)

    asyncio.run(scene())


def test_of_a_thousand_that_call_while_they_are_passed_on_none_loses_a_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        server, port = await serve("127.0.0.1", 0, TOKEN, {"Echo": (KvKey, echo)})
        clients = [GrpcClient(f"127.0.0.1:{port}", TOKEN) for _ in range(1000)]

        async def call(client: GrpcClient) -> int:
            count = 0
            while not count or server._port._passed_on:
                await client.call("Echo", KvKey(b"", b"x"), KvValue, 60)
                count += 1
            return count

        counts = await asyncio.gather(*map(call, clients))
        assert sum(counts) > len(clients)
        assert not server._port._passed_on
        for client in clients:
            await client.close()
        await server.stop(None)

    asyncio.run(scene())
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return  # without IPv6, gRPC's socket is of another kind than the first
    assert "handed on at once" not in caplog.text


def test_who_connects_is_given_to_the_server_before_the_first_socket_is_closed() -> None:
    """What has come to a socket that is closed would be reset."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        with pytest.raises(OSError):
            give_to_next(first)  # nobody shares the port
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place = first.getsockname()
        with socket.create_server(place, reuse_port=True, backlog=1000) as second:
            give_to_next(first)
            came = [socket.create_connection(place, 20) for _ in range(100)]
            first.setblocking(False)
            with pytest.raises(BlockingIOError):
                first.accept()
            taken = [second.accept()[0] for _ in came]
            first.close()
            came.append(socket.create_connection(place, 20))
            taken.append(second.accept()[0])
            for one in (*came, *taken):
                one.close()


def test_who_knocks_has_the_server_start_and_says_no_more() -> None:
    async def scene() -> None:
        server, client = await server_and_client()
        for _ in range(2):  # also when it serves already
            knock(client.address)
            while server._service is None or server._port._passed_on:
                await asyncio.sleep(0.01)
        assert (await client.call("Echo", KvKey(b"", b"a"), KvValue)).value == b"a"
        await client.close()
        await server.stop(None)

    asyncio.run(scene())


def test_a_port_that_is_taken_is_taken_before_and_after_its_server_started() -> None:
    async def scene() -> None:
        server, client = await server_and_client()

        async def again() -> None:
            with pytest.raises(OSError, match="in use"):
                await serve("127.0.0.1", server.port, TOKEN, {})

        await again()
        await client.call("Echo", KvKey(b"", b""), KvValue)
        await again()
        await client.close()
        await server.stop(None)
        successor, _ = await serve("127.0.0.1", server.port, TOKEN, {})
        await successor.stop(None)

    asyncio.run(scene())


def test_who_speaks_no_tls_is_sent_away_and_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "0.2")

    async def scene() -> None:
        server, port = await serve("127.0.0.1", 0, TOKEN, {})
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            with contextlib.suppress(ConnectionResetError):  # of what nobody has read
                assert await reader.read() == b""
            writer.close()
        assert server._service is None
        await server.stop(None)

    asyncio.run(scene())


def test_silent_strangers_keep_no_member_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do those who begin a handshake that they never end, a byte now and then."""
    monkeypatch.setattr(grpc_service, "_MOST_SILENT", 8)

    async def scene() -> None:
        server, client = await server_and_client()
        loop = asyncio.get_running_loop()
        strangers = [await stranger(loop, server.port) for _ in range(40)]
        slow = [await stranger(loop, server.port) for _ in range(3)]
        for one in slow:
            await loop.sock_sendall(one, b"\x16")
        assert (await client.call("Echo", KvKey(b"", b"a"), KvValue)).value == b"a"
        for one in slow:
            await loop.sock_sendall(one, b"\x03")
        assert (await client.call("Echo", KvKey(b"", b"b"), KvValue)).value == b"b"
        await client.close()
        await server.stop(None)
        for one in (*strangers, *slow):
            one.close()

    asyncio.run(scene())


async def stranger(loop: asyncio.AbstractEventLoop, port: int) -> socket.socket:
    """Connected, and taken from the backlog as far as the server takes any."""
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    return sock


def test_a_server_that_is_stopped_while_it_starts_leaves_nothing() -> None:
    async def scene() -> None:
        server, client = await server_and_client()
        call = asyncio.create_task(client.call("Echo", KvKey(b"", b""), KvValue, 20))
        while not server._port._came:
            await asyncio.sleep(0)
        await server.stop(None)
        with pytest.raises(RpcError):
            await call
        await client.close()
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", server.port)):
            pass

    asyncio.run(scene())


def test_a_cluster_of_one_machine_has_no_grpc_also_when_its_gcs_was_killed(cluster: Path) -> None:
    def with_grpc() -> list[str]:
        found = []
        for process in processes_of(cluster):
            with contextlib.suppress(psutil.NoSuchProcess):  # the first actor's worker leaves
                if any("cygrpc" in place.path for place in process.memory_maps()):
                    found.append(process.info["cmdline"][3])
        return found

    @nbray.remote
    class Actor:
        def answer(self) -> int:
            return 42

    assert nbray.get(Actor.remote().answer.remote()) == 42
    _, info = find_session("auto")
    psutil.Process(info["pids"][0]).kill()
    actor = Actor.options(name="a").remote()  # type: ignore[attr-defined]
    assert nbray.get(actor.answer.remote(), timeout=60) == 42
    assert len(nbray.nodes()) == 1
    assert with_grpc() == []


def test_the_empty_answer_is_one() -> None:
    async def scene() -> None:
        server, port = await serve("localhost", 0, TOKEN, {"Nothing": (Empty, lambda _: Empty())})
        client = GrpcClient(f"localhost:{port}", TOKEN)
        assert await client.call("Nothing", Empty(), Empty) == Empty()
        await client.close()
        await server.stop(None)

    asyncio.run(scene())
