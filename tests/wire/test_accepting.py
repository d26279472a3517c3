"""Who comes while there is no descriptor for it waits, and costs nothing meanwhile."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from support.descriptors import no_file_left

from nbray.wire import accepting
from nbray.wire.accepting import Accepting, accept_unix


class Counting(socket.socket):
    looks = 0

    def accept(self) -> tuple[socket.socket, Any]:
        Counting.looks += 1
        return super().accept()


class Greets(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(b"hello")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_nobody_is_lost_and_nothing_spins_without_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.setattr(accepting, "_PAUSE_S", 0.3)
    Counting.looks = 0

    async def story() -> None:
        sock = Counting(socket.AF_UNIX)
        sock.bind(str(tmp_path / "s"))
        sock.listen(8)
        listening = Accepting(sock, Greets)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        with no_file_left():
            for client in clients:
                client.setblocking(False)
                client.connect(str(tmp_path / "s"))
            while not Counting.looks:
                await asyncio.sleep(0)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert Counting.looks <= 2, "it looks again later"
        loop = asyncio.get_running_loop()
        for client in clients:
            assert await asyncio.wait_for(loop.sock_recv(client, 10), 30) == b"hello"
            client.close()
        listening.close()

    run(story())


def test_what_a_process_has_left_is_replaced_and_what_is_no_socket_stays(tmp_path: Path) -> None:
    async def story() -> None:
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(tmp_path / "s"))
        left.close()
        listening = accept_unix(str(tmp_path / "s"), Greets)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        listening.close()
        (tmp_path / "file").write_text("of somebody")
        with pytest.raises(OSError, match="in use"):
            accept_unix(str(tmp_path / "file"), Greets)
        assert (tmp_path / "file").read_text() == "of somebody"

    asyncio.run(story())
