"""Hostile and broken peers at every listener: one clear line, a closed connection, nothing else.

The cluster's own processes listen with frames (raylet, worker, driver; Unix sockets and TCP)
and with gRPC (GCS, raylet). What a stranger sends never is interpreted, what a member sends is
bounded, and the process goes on with its memory as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import resource
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec
import psutil
import pytest
from fuzz import Listening
from support.strangers import eavesdropper, is_closed

import nbray
from nbray.core_worker.current import find_core
from nbray.driver.joining import find_session
from nbray.testing import wait_until
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient, RefusedError, RpcError, serve
from nbray.wire.handshake import ClientHandshake, ServerHandshake
from nbray.wire.link import Answer, Opening, handover

HTTP = b"GET /index.html HTTP/1.1\r\nHost: localhost\r\nUser-Agent: scan\r\n\r\n"
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))
GROWTH_ALLOWED = 12 << 20


@dataclass
class Listener:
    """Where a process listens, and what it wrote to its log."""

    address: str | tuple[str, int]
    pid: int
    log: Callable[[], str]

    def connect(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        sock = socket.socket(family)
        sock.settimeout(20)
        sock.connect(self.address)
        return sock

    def prove(self, token: bytes) -> socket.socket:
        """A connection that has proved the token."""
        sock = self.connect()
        client = ClientHandshake(token, sock.getpeername)
        sock.sendall(client.answer(sock.recv(client.hello_bytes, socket.MSG_WAITALL)))
        client.check(sock.recv(client.proof_bytes, socket.MSG_WAITALL))
        return sock

    def join(self, token: bytes) -> socket.socket:
        """One that has said its link, too."""
        sock = self.prove(token)
        sock.sendall(Opening(os.urandom(16)).pack())
        assert Answer.unpack(sock.recv(Answer.SIZE, socket.MSG_WAITALL)).accepted
        return sock


@pytest.fixture(params=["raylet-unix", "raylet-tcp", "worker-unix", "worker-tcp", "driver-tcp"])
def listener(
    request: pytest.FixtureRequest,
    session_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Listener:
    """One listener of a cluster in which a peer has two seconds for its handshake."""
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "2")
    nbray.init(num_cpus=1, object_store_memory=100 << 20)
    session, info = find_session("auto")
    process, _, wire = request.param.partition("-")
    if process == "driver":
        caplog.set_level(logging.INFO, "nbray")
        core = find_core()
        assert core is not None
        address = core.peers.address
        return Listener((address.host, address.port), os.getpid(), lambda: caplog.text)
    if process == "worker":
        actor = Listening.remote()
        request.addfinalizer(lambda: nbray.shutdown() or actor)  # the actor lives until then
        unix, tcp, pid = nbray.get(actor.where.remote(), timeout=30)
        logs = session.path / "logs"
        return Listener(
            unix if wire == "unix" else tcp, pid,
            lambda: "".join(path.read_text() for path in sorted(logs.glob("worker-*"))),
        )  # fmt: skip
    row = nbray.nodes()[0]
    tcp = (row["NodeManagerAddress"], row["NodeManagerPort"])
    return Listener(
        info["raylet_socket"] if wire == "unix" else tcp, info["pids"][-1],
        session.log_path("raylet.log").read_text,
    )  # fmt: skip


def lines_with(listener: Listener, text: str) -> list[str]:
    return [line for line in listener.log().splitlines() if text in line]


def expect_told(listener: Listener, text: str, attack: Callable[[], None]) -> None:
    """The log tells of an attack, or of one of the next: a flood does not fill it."""
    before = len(lines_with(listener, text))

    def told() -> bool:
        attack()
        return len(lines_with(listener, text)) > before

    wait_until(told, f"{text!r} in the log")


def test_a_program_shows_nothing_of_strangers_at_its_port(
    session_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nbray.init(num_cpus=1)
    caplog.set_level(logging.INFO, "nbray")
    core = find_core()
    assert core is not None
    with socket.create_connection((core.peers.address.host, core.peers.address.port)) as sock:
        sock.sendall(HTTP)
        wait_until(lambda: "does not speak nbray's protocol" in caplog.text, "it to be closed")
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def strangers(token: bytes) -> list[tuple[str, bytes, str]]:
    wrong = ClientHandshake(b"a guess")
    return [
        ("a request of a browser", HTTP, "does not speak nbray's protocol"),
        ("a TLS client", TLS_HELLO, "does not speak nbray's protocol"),
        ("a port scanner", b"\0" * 4096, "does not speak nbray's protocol"),
        ("one byte of it", b"N" + b"\xff" * 200, "does not speak nbray's protocol"),
        ("another version", b"NBRY" + struct.pack("<H", 9) + b"\0" * 64, "protocol version 9"),
        ("a wrong token", wrong.answer(ServerHandshake(b"").hello), "wrong token"),
    ]


def members() -> list[tuple[str, bytes, str]]:
    body = msgspec.msgpack.encode([["NoSuchMessage", 1, 2]])
    return [
        ("4 GB announced", b"\xff\xff\xff\xff" + b"x" * 1000, "4294967295 bytes was announced"),
        ("an unknown message", struct.pack("<II", len(body), 0) + body, "malformed message"),
        ("no MessagePack", struct.pack("<II", 40, 0) + b"\xc1" * 40, "malformed message"),
        ("no list", struct.pack("<II", 1, 0) + b"\x01", "malformed message"),
    ]


def test_whoever_breaks_the_protocol_is_cut_off_and_told_of(listener: Listener) -> None:
    token = find_session("auto")[0].token

    def stranger(attack: bytes) -> None:
        with listener.connect() as sock:
            sock.sendall(attack)
            assert is_closed(sock), attack

    def member(attack: bytes) -> None:
        with listener.join(token) as sock:
            sock.sendall(attack)
            assert is_closed(sock), attack

    told = set()
    for peer, attacks in ((stranger, strangers(token)), (member, members())):
        for _what, attack, line in attacks:
            if line in told:
                peer(attack)
            else:
                expect_told(listener, line, functools.partial(peer, attack))
            told.add(line)
    assert psutil.pid_exists(listener.pid)
    assert nbray.get(nbray.remote(lambda: 6 * 7).remote(), timeout=30) == 42


def test_who_is_dialled_by_a_member_cannot_pass_its_proof_on(listener: Listener) -> None:
    token = find_session("auto")[0].token
    with (
        socket.create_server(("127.0.0.1", 0)) as evil,
        socket.create_connection(evil.getsockname()) as dialled,
        listener.connect() as outer,
    ):
        member = ClientHandshake(token, dialled.getpeername)
        outer.sendall(member.answer(outer.recv(member.hello_bytes, socket.MSG_WAITALL)))
        assert outer.recv(1) == b"", "the relay was taken in"
    wait_until(lambda: lines_with(listener, "in another's place"), "a line in the log")


def test_what_a_member_hands_over_is_a_socket_or_is_refused(listener: Listener) -> None:
    core = find_core()
    assert core is not None
    if not isinstance(listener.address, str) or "raylet" in listener.address:
        return  # nothing can come with bytes there, or nobody hands anything over
    mine, theirs = socket.socketpair()
    with open("/dev/null", "rb") as no_socket, mine, theirs:
        udp = socket.socket(type=socket.SOCK_DGRAM)
        before = psutil.Process(listener.pid).num_fds()
        for given, taken in (([], False), ([no_socket.fileno()], False),
                             ([udp.fileno()] * 3, False), ([theirs.fileno()], True)):  # fmt: skip
            with listener.prove(core.peers.connections.token) as giver:
                socket.send_fds(giver, [handover(60.0)], given)
                answer = Answer.unpack(giver.recv(Answer.SIZE, socket.MSG_WAITALL))
                assert answer.accepted is taken, given
                if taken:  # they end together
                    mine.sendall(b"no greeting at all".ljust(Opening.SIZE) + b"more")
                    assert is_closed(giver)
                    theirs.close()
                    assert is_closed(mine)
        udp.close()
        wait_until(lambda: psutil.Process(listener.pid).num_fds() <= before, "all to be closed")


def test_a_half_open_connection_ends_when_its_time_is_over(listener: Listener) -> None:
    before = len(lines_with(listener, "no handshake in time"))
    with listener.connect() as silent, listener.connect() as slow:
        slow.sendall(b"NBRY")
        assert is_closed(silent) and is_closed(slow)
    text = "no handshake in time"
    wait_until(lambda: len(lines_with(listener, text)) >= before + 2, "a line for each")
    assert nbray.get(nbray.remote(lambda: 6 * 7).remote(), timeout=30) == 42


def test_the_memory_of_the_attacked_does_not_grow(listener: Listener) -> None:
    token = find_session("auto")[0].token
    process = psutil.Process(listener.pid)
    files = 0

    def attack(count: int) -> None:
        for _ in range(count):
            with listener.connect() as sock:
                sock.sendall(HTTP)
                assert is_closed(sock)
            with listener.join(token) as sock:
                sock.sendall(b"\xff\xff\xff\xff" * 2)
                assert is_closed(sock)
            with listener.join(token) as sock:  # a frame that is announced and never comes
                sock.sendall(struct.pack("<II", 100 << 20, 0) + b"x" * 10_000)

    attack(20)
    resident, files = process.memory_info().rss, process.num_fds()
    attack(100)
    wait_until(lambda: process.num_fds() <= files + 3, "all sockets of the attackers to close")
    assert process.memory_info().rss < resident + GROWTH_ALLOWED


# --- gRPC --------------------


def grpc_targets() -> list[tuple[str, str, str]]:
    """Address, a method of the service, and the log, of the GCS and of the raylet."""
    _, info = find_session("auto")
    core = find_core()
    assert core is not None
    reply = core.peers.gcs_call("ListNodes", msgspec.msgpack.encode(g.Empty()))
    node = msgspec.msgpack.decode(reply, type=g.Nodes).nodes[0]
    return [
        (info["gcs_address"], "Report", "gcs.log"),
        (f"{node.host}:{node.grpc_port}", "TakeNews", "raylet.log"),
    ]


def call_as(token: bytes, address: str, method: str, body: bytes) -> str:
    """What a call fails with; empty when it does not."""

    async def call() -> str:
        client = GrpcClient(address, token)
        try:
            await client.call_raw(method, body, timeout=10.0)
        except RpcError as error:
            return str(error)
        finally:
            await client.close()
        return ""

    return asyncio.run(call())


def test_grpc_refuses_strangers_and_survives_garbage(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "1")
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    session, _ = find_session("auto")
    for address, method, log in grpc_targets():
        path = session.log_path(log)

        def lines(text: str, path: Path = path) -> list[str]:
            return [line for line in path.read_text().splitlines() if text in line]

        assert "wrong cluster token" in call_as(b"a guess", address, method, b"\x90")
        assert "wrong cluster token" in call_as(b"a guess", address, "NoSuchMethod", b"")
        for body in (b"\xc1" * 50, b"", os.urandom(300), msgspec.msgpack.encode(["x"] * 9)):
            before = len(lines("malformed"))
            assert "malformed" in call_as(session.token, address, method, body)
            wait_until(lambda before=before: len(lines("malformed")) > before, "a line in the log")
            assert len(lines("malformed")) == before + 1
        assert "Traceback" not in path.read_text()
        size = path.stat().st_size
        host, _, port = address.rpartition(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
        for garbage in (TLS_HELLO, *(HTTP, preface, preface + b"\xff" * 500) * 10):
            with socket.create_connection((host, int(port)), timeout=20) as sock:
                sock.sendall(garbage)
                assert is_closed(sock)
        new = path.read_text()[size:]
        assert not [line for line in new.splitlines() if "andshake" in line or "ssl" in line], new
    assert nbray.get(nbray.remote(lambda: 6 * 7).remote(), timeout=30) == 42
    assert len(nbray.nodes()) == 1


def test_what_strangers_send_to_grpc_takes_no_memory(cluster: Path) -> None:
    _, info = find_session("auto")
    process = psutil.Process(info["pids"][0])

    async def flood(count: int) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(info["gcs_address"], options=options) as channel:
            calls = [
                channel.unary_unary("/nbray/Report")(bytes(20 << 20), timeout=20)
                for _ in range(count)
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, grpc.aio.AioRpcError) for answer in answers)

    asyncio.run(flood(1))
    resident = process.memory_info().rss
    asyncio.run(flood(10))
    assert process.memory_info().rss < resident + GROWTH_ALLOWED


def test_a_thousand_silent_connections_do_not_shut_the_gcs(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "2")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # as a shell of Debian's gives it
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    session, info = find_session("auto")
    host, _, port = info["gcs_address"].rpartition(":")
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            for _ in range(1100)
        ]
        assert "malformed" in call_as(session.token, info["gcs_address"], "Report", b"\xc1")
        for sock in silent[::100]:
            assert is_closed(sock), "their time is limited"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- who took a port --------------------


def test_who_listens_where_the_gcs_was_hears_no_secret() -> None:
    token = os.urandom(32)
    body = b"what the call is about"
    with eavesdropper() as (address, heard):
        assert call_as(token, address, "Report", body)
        said = b"".join(heard)
        assert said, "nobody called"
        for secret in (token, token.hex().encode(), body, b"Report"):
            assert secret not in said

    async def elsewhere() -> str:
        """A server of another cluster, as complete as ours."""
        called: list[object] = []

        async def report(request: g.Empty) -> g.Empty:
            called.append(request)
            return g.Empty()

        server, port = await serve("127.0.0.1", 0, b"another", {"Report": (g.Empty, report)})
        client = GrpcClient(f"127.0.0.1:{port}", token, patience_s=20.0)
        with pytest.raises(RefusedError) as refused:
            await client.call("Report", g.Empty(), g.Empty)
        await client.close()
        await server.stop(None)
        assert not called
        return str(refused.value)

    assert "wrong cluster token" in asyncio.run(elsewhere())


def test_a_raylet_waits_for_the_gcs_while_a_stranger_has_its_port(session_root: Path) -> None:
    """It heard a member there before, so this is one who took the port."""
    token = os.urandom(32)

    async def through() -> None:
        async def report(_request: g.Empty) -> g.Empty:
            return g.Empty()

        handlers = {"Report": (g.Empty, report)}
        server, port = await serve("127.0.0.1", 0, token, handlers)
        client = GrpcClient(f"127.0.0.1:{port}", token, patience_s=60.0)
        await client.call("Report", g.Empty(), g.Empty)
        await server.stop(None)
        server, _ = await serve("127.0.0.1", port, b"another", handlers)
        call = asyncio.create_task(client.call("Report", g.Empty(), g.Empty))
        done, _ = await asyncio.wait([call], timeout=1.0)
        assert not done
        await server.stop(None)
        server, _ = await serve("127.0.0.1", port, token, handlers)
        assert await call == g.Empty()
        await client.close()
        await server.stop(None)

    asyncio.run(through())
