"""Hostile and broken peers at every listener: one clear line, a closed connection, nothing else.

The cluster's own processes listen with frames (raylet, worker, driver; Unix sockets and TCP)
and with gRPC (GCS, raylet). What a stranger sends never is interpreted, what a member sends is
bounded, and the process goes on with its memory as it was.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from conftest import wait_until
from fuzz import Listening

import nbray
from nbray.core_worker.current import find_core
from nbray.driver import find_session
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.handshake import ClientHandshake
from nbray.wire.link import Answer, Opening

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

    def join(self, token: bytes) -> socket.socket:
        """A connection that has proved the token."""
        sock = self.connect()
        client = ClientHandshake(token)
        sock.sendall(client.answer(sock.recv(client.hello_bytes, socket.MSG_WAITALL)))
        client.check(sock.recv(client.proof_bytes, socket.MSG_WAITALL))
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
    """One listener of a cluster in which a peer has a second for its handshake."""
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "1")
    nbray.init(num_cpus=1, object_store_memory=100 << 20)
    session, info = find_session("auto")
    process, _, wire = request.param.partition("-")
    if process == "driver":
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


def is_closed(sock: socket.socket) -> bool:
    """Read to the end: whatever comes, it ends."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


def lines_with(listener: Listener, text: str) -> list[str]:
    return [line for line in listener.log().splitlines() if text in line]


def expect_one_line(listener: Listener, text: str, before: int) -> None:
    wait_until(lambda: len(lines_with(listener, text)) > before, f"{text!r} in the log")
    assert len(lines_with(listener, text)) == before + 1, lines_with(listener, text)


def strangers(token: bytes) -> list[tuple[str, bytes, str]]:
    wrong = ClientHandshake(b"a guess")
    return [
        ("a request of a browser", HTTP, "does not speak nbray's protocol"),
        ("a TLS client", TLS_HELLO, "does not speak nbray's protocol"),
        ("a port scanner", b"\0" * 4096, "does not speak nbray's protocol"),
        ("one byte of it", b"N" + b"\xff" * 200, "does not speak nbray's protocol"),
        ("another version", b"NBRY" + struct.pack("<H", 9) + b"\0" * 64, "protocol version 9"),
        ("a wrong token", wrong.answer(b"NBRY\x01\0" + os.urandom(32)), "wrong token"),
    ]


def members() -> list[tuple[str, bytes, str]]:
    body = msgspec.msgpack.encode([["NoSuchMessage", 1, 2]])
    return [
        ("4 GB announced", b"\xff\xff\xff\xff" + b"x" * 1000, "4294967295 bytes was announced"),
        ("an unknown message", struct.pack("<II", len(body), 0) + body, "malformed message"),
        ("no MessagePack", struct.pack("<II", 40, 0) + b"\xc1" * 40, "malformed message"),
        ("no list", struct.pack("<II", 1, 0) + b"\x01", "malformed message"),
    ]


def test_whoever_breaks_the_protocol_is_cut_off_with_one_line(listener: Listener) -> None:
    token = find_session("auto")[0].token
    for what, attack, line in strangers(token):
        before = len(lines_with(listener, line))
        with listener.connect() as sock:
            sock.sendall(attack)
            assert is_closed(sock), what
        expect_one_line(listener, line, before)
    for what, attack, line in members():
        before = len(lines_with(listener, line))
        with listener.join(token) as sock:
            sock.sendall(attack)
            assert is_closed(sock), what
        expect_one_line(listener, line, before)
    assert psutil.pid_exists(listener.pid)
    assert nbray.get(nbray.remote(lambda: 6 * 7).remote(), timeout=30) == 42


def test_a_half_open_connection_ends_when_its_time_is_over(listener: Listener) -> None:
    before = len(lines_with(listener, "no handshake in time"))
    with listener.connect() as silent, listener.connect() as slow:
        slow.sendall(b"NBRY")
        assert is_closed(silent) and is_closed(slow)
    text = "no handshake in time"
    wait_until(lambda: len(lines_with(listener, text)) == before + 2, "a line for each")
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
        (f"{node.host}:{node.grpc_port}", "PullChunk", "raylet.log"),
    ]


def test_grpc_refuses_strangers_and_survives_garbage(cluster: Path) -> None:
    session, _ = find_session("auto")

    async def call(address: str, token: bytes, method: str, body: bytes) -> str:
        client = GrpcClient(address, token)
        try:
            await client.call_raw(method, body, timeout=10.0)
        except RpcError as error:
            return str(error)
        finally:
            await client.close()
        return ""

    for address, method, log in grpc_targets():
        path = session.log_path(log)

        def lines(text: str, path: Path = path) -> list[str]:
            return [line for line in path.read_text().splitlines() if text in line]

        def expect(text: str, count: int, lines: Any = lines) -> None:
            wait_until(lambda: len(lines(text)) >= count, f"{text!r} in the log")
            assert len(lines(text)) == count, lines(text)

        refused = asyncio.run(call(address, b"a guess", method, b"\x90"))
        assert "wrong cluster token" in refused
        expect("wrong cluster token", 1)
        assert asyncio.run(call(address, b"a guess", "NoSuchMethod", b""))
        expect("wrong cluster token", 2)
        for body in (b"\xc1" * 50, b"", os.urandom(300), msgspec.msgpack.encode(["x"] * 9)):
            before = len(lines("malformed"))
            answer = asyncio.run(call(address, session.token, method, body))
            assert "malformed" in answer
            expect("malformed", before + 1)
        assert "Traceback" not in path.read_text()
        host, _, port = address.rpartition(":")
        for garbage in (HTTP, TLS_HELLO, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500):
            with socket.create_connection((host, int(port)), timeout=20) as sock:
                sock.sendall(garbage)
                assert is_closed(sock)
    assert nbray.get(nbray.remote(lambda: 6 * 7).remote(), timeout=30) == 42
    assert len(nbray.nodes()) == 1
