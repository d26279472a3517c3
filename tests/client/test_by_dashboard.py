"""A driver from afar that comes by the dashboard's port: what lies between may do anything."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from support.far_driver import TOKEN, my_remote, start_far_head

import nbray
from nbray.common.addresses import split
from nbray.exceptions import LocalRayletDiedError
from nbray.launcher.dashboard import DashboardOptions
from nbray.launcher.found import node_of
from nbray.launcher.local import RunningNode
from nbray.testing import Proxied, Proxy, wait_until

pytestmark = pytest.mark.slow
MB = 1 << 20


@pytest.fixture
def head(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNode]:
    """A head node with a gateway and a dashboard; this process knows its token."""
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    node = start_far_head(
        object_store_memory=100 * MB, dashboard=DashboardOptions(True, "127.0.0.1", 0)
    )
    yield node
    nbray.shutdown()
    node.stop()


@nbray.remote
def double(value: object) -> object:
    return 2 * value  # type: ignore[operator]


class Late:
    """Answers after a while."""

    async def is_there(self) -> bool:
        return True

    async def double(self, value: int) -> int:
        await asyncio.sleep(2)
        return 2 * value


def _stop_as_the_command_does(node: RunningNode) -> None:
    session = node.session
    wait_until(lambda: len(session.read_info()["pids"]) > 2, "the session to tell of the dashboard")
    node_of(session).end(16.0)


@pytest.mark.parametrize(
    "end", [RunningNode.kill_raylet, RunningNode.stop, _stop_as_the_command_does]
)
def test_the_end_of_the_head_is_said(head: RunningNode, end: Callable[[RunningNode], None]) -> None:
    nbray.init(f"http://{head.webui_url}")
    ref = nbray.remote(time.sleep).remote(1000)
    assert nbray.get(double.remote(1)) == 2
    end(head)
    with pytest.raises(LocalRayletDiedError, match=r"lost (the|its) cluster"):
        nbray.get(ref, timeout=60)


def test_what_comes_by_a_path_that_was_given_up_is_dropped(head: RunningNode) -> None:
    with Proxy(split(head.webui_url)) as proxy:
        nbray.init(f"http://{proxy.place[0]}:{proxy.place[1]}")
        late = nbray.remote(num_cpus=0)(Late).remote()
        refs = [late.double.remote(number) for number in range(300)]
        assert nbray.get(late.is_there.remote())
        before, since = len(proxy.connections), my_remote().state.since
        proxy.hold()  # the answers come now, and are sent once more by another path

        def is_anew() -> bool:  # for how long it is lost in between is nobody's matter
            state = my_remote().state
            return state.state == "connected" and state.since > since

        wait_until(is_anew, "the silence to be noticed, and another connection")
        assert len(proxy.connections) > before
        proxy.release()
        assert nbray.get(refs, timeout=60) == list(range(0, 600, 2))
        assert nbray.get(double.remote(nbray.put(np.ones(MB))), timeout=60).sum() == 2 * MB
        nbray.shutdown()


class Ingress:
    """Leads to a dashboard, or answers by itself, as what asks for a login does."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.answer = b""
        self.asked = 0
        self._target = target
        self._led: list[Proxied] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                near, _ = self._listener.accept()
                if not self.answer:
                    self._led.append(Proxied(near, socket.create_connection(self._target)))
                    continue
                with near, suppress(OSError):
                    near.recv(65536)
                    near.sendall(self.answer)
                self.asked += 1

    def cut(self) -> None:
        for one in self._led:
            one.cut()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for one in self._led:
            one.cut()
            for thread in one.threads:
                thread.join()
            one.close()


_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nPlease log in"[:-1]
_LOGIN = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"
_STARTING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_HALF = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
_WRONG = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: nothing\r\n\r\n"
)


def test_whatever_is_answered_in_the_dashboards_stead_the_driver_comes_back(
    head: RunningNode,
) -> None:
    ingress = Ingress(split(head.webui_url))  # type: ignore[arg-type]
    try:
        ingress.answer = _PAGE
        with pytest.raises(ConnectionError, match="leads to no dashboard"):
            nbray.init(ingress.url)
        ingress.answer = b""
        nbray.init(ingress.url)
        for answer in (_PAGE, _LOGIN, _STARTING, _HALF, _WRONG, b"\r\n", b"SSH-2.0-x\r\n"):
            ref = double.remote(21)
            asked, ingress.answer = ingress.asked, answer
            ingress.cut()
            wait_until(lambda asked=asked: ingress.asked > asked + 1, f"a second try at {answer!r}")
            ingress.answer = b""
            assert nbray.get(ref, timeout=60) == 42, answer
        nbray.shutdown()
    finally:
        ingress.close()
