"""Who comes to a dashboard while there is no descriptor for it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from support.descriptors import no_file_left
from tornado.web import Application, RequestHandler

from nbray.dashboard import server as served
from nbray.dashboard.server import BoundedServer, PatientListener


class Counting(PatientListener):
    looks = 0

    def accept(self) -> tuple[socket.socket, Any]:
        Counting.looks += 1
        return super().accept()


class Hello(RequestHandler):
    def get(self) -> None:
        self.finish("hello")


def test_nobody_is_lost_and_nothing_spins_without_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served, "_PAUSE_S", 0.3)

    async def story() -> None:
        listener = Counting(socket.AF_INET)
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        listener.setblocking(False)
        server = BoundedServer(Application([("/", Hello)]))
        server.add_sockets([listener])
        client = socket.socket(socket.AF_INET)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        with no_file_left():
            await loop.sock_connect(client, listener.getsockname())
            while not Counting.looks:
                await asyncio.sleep(0)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert Counting.looks <= 2, "it looks again later"
        await loop.sock_sendall(client, b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while part := await asyncio.wait_for(loop.sock_recv(client, 1000), 30):
            answer += part
        assert answer.endswith(b"hello")
        client.close()
        server.stop()

    asyncio.run(story())
