"""What raises in a raylet or in the GCS fails what asked for it, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from support.descriptors import no_file_left

import nbray
from nbray.common.config import Config
from nbray.common.session import Session
from nbray.driver.driver import current_driver
from nbray.raylet.failures import fail
from nbray.raylet.process import Process
from nbray.raylet.server import Raylet
from nbray.testing import wait_until
from nbray.wire import group_messages as gm
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire.aio import serve_unix
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import GrpcClient, RpcError, serve
from nbray.wire.handshake import ClientHandshake
from nbray.wire.lease_messages import AskAssigned, Assigned
from nbray.wire.link import Answer, Link, Opening
from nbray.wire.records import Address, GroupSpec, JobConfig, Stored

ADDRESS = Address(b"w" * 28, b"n" * 28, "", "", 0)
JOB = JobConfig(b"j" * 4, "", ADDRESS, [], "")
REQUESTS: list[tuple[m.Message, Any]] = [
    (m.RequestLease(7, JOB, {}), lambda a: (a.request_id, a.cause.text)),
    (m.GcsRequest(7, "ListNodes", b""), lambda a: (a.request_id, a.error)),
    (m.RegisterDriver(ADDRESS, 1, "", [], "", ""), lambda a: (7, a.error)),
    (om.CreateObject(b"o", 1, ADDRESS), lambda a: (7, a.cause.text)),
    (om.GetObject(b"o", Stored(1, ()), ADDRESS), lambda a: (7, a.cause.text)),
    (gm.CreateGroup(GroupSpec(b"g", [], "PACK", JOB)), lambda a: (7, a.error)),
]


@pytest.mark.parametrize(
    "request_, read", REQUESTS, ids=[type(one).__name__ for one, _ in REQUESTS]
)
def test_what_waits_for_an_answer_is_told_what_happened(request_: m.Message, read: Any) -> None:
    sent: list[m.Message] = []
    connection = cast(Any, SimpleNamespace(send=sent.append, peer="a process"))
    fail(Process(connection), request_, ValueError("a bug"))
    number, text = read(sent[0])
    assert number == 7
    assert "ValueError('a bug')" in text and type(request_).__name__ in text


class _Broken(Raylet):
    """Cannot say what is assigned to whoever asks with an odd number."""

    def _handle(self, process: Process, message: m.Message) -> None:
        if isinstance(message, AskAssigned) and message.request_id % 2:
            raise RuntimeError(f"it does not like {message.request_id}")
        super()._handle(process, message)


def test_a_handler_that_raises_breaks_neither_its_connection_nor_the_rest_of_the_batch(
    session_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session.create()
    token = session.token

    def ask(path: str) -> list[m.Message]:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(path)
        client = ClientHandshake(token, sock.getpeername)
        sock.sendall(client.answer(sock.recv(client.hello_bytes, socket.MSG_WAITALL)))
        client.check(sock.recv(client.proof_bytes, socket.MSG_WAITALL))
        sock.sendall(Opening(os.urandom(16)).pack())
        assert Answer.unpack(sock.recv(Answer.SIZE, socket.MSG_WAITALL)).accepted
        link = Link(1 << 20)
        answers: list[m.Message] = []
        for batch in ([1, 2, 3, 4], [5, 6]):
            for number in batch:
                link.put(AskAssigned(number))
            sock.sendall(b"".join(link.take()))
            while len(answers) < batch[-1]:
                answers += link.feed(sock.recv(65536))
        sock.close()
        return answers

    async def scenario() -> list[m.Message]:
        gcs = GrpcClient("127.0.0.1:1", token)
        raylet = _Broken(
            session,
            "127.0.0.1",
            gcs,
            {"CPU": 10_000},
            1 << 20,
            True,
            Config(),
            session.path,
            {},
            None,
        )
        path = session.socket_path("broken")
        server = serve_unix(path, token, raylet)
        answers = await asyncio.to_thread(ask, path)
        server.close()
        await gcs.close()
        return answers

    answers = asyncio.run(scenario())
    session.remove()
    assert [cast(Assigned, answer).request_id for answer in answers] == [1, 2, 3, 4, 5, 6]
    assert "AskAssigned of" in caplog.text and "it does not like 3" in caplog.text


def test_a_grpc_handler_that_raises_fails_that_call_only() -> None:
    async def bad(_request: Empty) -> Empty:
        raise KeyError("nobody")

    async def good(_request: Empty) -> Empty:
        return Empty()

    async def scenario() -> None:
        token = b"t" * 32
        server, port = await serve(
            "127.0.0.1", 0, token, {"Bad": (Empty, bad), "Good": (Empty, good)}
        )
        client = GrpcClient(f"127.0.0.1:{port}", token)
        for _ in range(3):
            with pytest.raises(RpcError, match=r"Bad at .*KeyError.*nobody"):
                await client.call("Bad", Empty(), Empty)
            assert await client.call("Good", Empty(), Empty) == Empty()
        await client.close()
        await server.stop(None)

    asyncio.run(scenario())


def test_a_raylet_that_can_open_no_file_for_a_while_lives_on(cluster: Path) -> None:
    @nbray.remote(num_cpus=0)
    class Counter:
        n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

    counter = Counter.remote()
    assert nbray.get(counter.add.remote()) == 1
    node = current_driver().node
    log = node.session.log_path("raylet.log")
    raylet = psutil.Process(node.children[1].pid)
    with no_file_left(raylet.pid):
        late = Counter.remote()
        wait_until(lambda: "Too many open files" in log.read_text(), "a report to fail")
    assert nbray.get([counter.add.remote(), late.add.remote()], timeout=60) == [2, 1]
