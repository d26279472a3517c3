"""The dashboard through a real Jupyter server, as it is reached behind a hub."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import pytest
from conftest import wait_until
from test_dashboard import fetch
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

import nbray

_LOGIN = {"Authorization": "token a-secret"}


@contextmanager
def jupyter_server(folder: Path) -> Iterator[str]:
    """A server with a prefix, as a hub gives it; yields its URL."""
    runtime = folder / "runtime"
    environment = os.environ | {
        "HOME": str(folder), "JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_TOKEN": "a-secret",
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
    }  # fmt: skip
    log = (folder / "server.log").open("w+")
    options = ["--ip=127.0.0.1", "--port=0", "--no-browser", "--allow-root",
               "--ServerApp.base_url=/user/jo/", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter_server", *options], env=environment, stdout=log, stderr=log
    )
    try:

        def found() -> list[Path]:
            assert server.poll() is None, (folder / "server.log").read_text()
            return list(runtime.glob("jpserver-*.json"))

        wait_until(found, "the Jupyter server's start", 60)
        url = str(json.loads(found()[0].read_text())["url"]).rstrip("/")
        wait_until(lambda: _answers(f"{url}/nbray/version"), "the extension", 60)
        yield url
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _answers(url: str) -> bool:
    try:
        return "nbray" in json.loads(fetch(url)[1])
    except (OSError, ValueError):
        return False


def test_who_may_use_jupyter_sees_the_dashboard_live_below_its_prefix(
    session_root: Path, tmp_path: Path
) -> None:
    context = nbray.init(
        num_cpus=1, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )
    assert context.dashboard_url is not None
    port = context.dashboard_url.rpartition(":")[2]
    with jupyter_server(tmp_path) as url:
        status, _body, headers = fetch(f"{url}/nbray/{port}/")
        assert (
            status in (302, 403)
            and "/user/jo/nbray" not in headers.get("Location", "").split("?")[0]
        )
        assert fetch(f"{url}/nbray/")[0] in (302, 403), "without a login nothing is told"

        status, _body, headers = fetch(f"{url}/nbray/", _LOGIN)
        assert status == 302 and headers["Location"] == f"/user/jo/nbray/{port}/"
        nodes = json.loads(fetch(f"{url}/nbray/{port}/api/nodes", _LOGIN)[1])["nodes"]
        assert nodes[0]["state"] == "ALIVE"
        status, page, _headers = fetch(f"{url}/nbray/{port}/", _LOGIN)
        assert status == 200
        for script in re.findall(r'src="([^"]+\.js)[^"]*"', page):
            assert not script.startswith(("/", "http")), "scripts stand beside the page"
            assert fetch(urljoin(f"{url}/nbray/{port}/", script), _LOGIN)[0] == 200, script

        closed = fetch(f"{url}/nbray/22/", _LOGIN)
        assert closed[0] == 404 and "No cluster of yours" in closed[1]
        session = re.search(r'"token":"([^"]+)"', page)
        assert session is not None
        asyncio.run(asyncio.wait_for(_watch(f"{url}/nbray/{port}/ws", session[1]), 60))


async def _watch(url: str, session: str) -> None:
    """The page's WebSocket tells of the cluster; nobody else's does."""

    def request(headers: dict[str, str]) -> HTTPRequest:
        protocols = {"Sec-WebSocket-Protocol": f"bokeh, {session}"}
        return HTTPRequest(url.replace("http://", "ws://"), headers={**protocols, **headers})

    for refused in ({}, {"Origin": "http://elsewhere.example"}):
        with pytest.raises(HTTPClientError, match="403"):
            await websocket_connect(request(refused))
    socket = await websocket_connect(request(_LOGIN))
    assert socket.selected_subprotocol == "bokeh"
    try:
        while True:
            message = await socket.read_message()
            assert message is not None, "the connection was closed"
            if isinstance(message, str) and "ACK" in message:
                return
    finally:
        socket.close()
