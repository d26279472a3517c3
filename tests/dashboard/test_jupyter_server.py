"""The dashboard through a real Jupyter server, as it is reached behind a hub."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import pytest
from support.processes import running
from support.web import fetch
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

import nbray
from nbray.testing import wait_until
from nbray.testing.processes import kill_all

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
            # It is written in place, so that it is empty for a moment.
            return [path for path in runtime.glob("jpserver-*.json") if path.stat().st_size]

        wait_until(found, "the Jupyter server's start", 60)
        url = str(json.loads(found()[0].read_text())["url"]).rstrip("/")
        wait_until(lambda: _answers(f"{url}/nbray/version"), "the extension", 60)
        yield url
    finally:
        server.terminate()
        server.wait(60)
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
        session = re.search(r"ticket&#34;: &#34;(\w+)", page)
        assert session is not None
        refused: list[dict[str, str]] = [{}, {"Origin": "http://elsewhere.example"}]
        asyncio.run(_watch(f"{url}/nbray/{port}/ws", session[1], _LOGIN, refused))


@pytest.mark.slow
def test_a_page_in_jupyter_cannot_use_jupyter(session_root: Path, tmp_path: Path) -> None:
    """A browser is led to a view, whose sandboxed page needs no cookies for what it loads."""
    context = nbray.init(
        num_cpus=1, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )
    port = str(context.dashboard_url).rpartition(":")[2]
    with jupyter_server(tmp_path) as url:
        page = f"{url}/nbray/{port}/"
        status, _body, headers = fetch(f"{page}?token=a-secret")
        assert status == 302 and f"/nbray/{port}/v/" in headers["Location"]
        view = urljoin(page, headers["Location"])
        assert fetch(view)[2]["Location"] == f"/user/jo/nbray/{port}/", "a login is asked for"
        status, text, headers = fetch(view, _LOGIN)
        assert status == 200
        policy = headers["Content-Security-Policy"]
        assert "sandbox allow-scripts;" in policy and "default-src 'none'" in policy
        assert "allow-same-origin" not in policy
        (script, *_) = re.findall(r'src="([^"]+\.js)[^"]*"', text)
        assert fetch(urljoin(view, script))[0] == 200
        assert fetch(urljoin(view, "api/nodes"))[0] == 403
        assert fetch(urljoin(f"{page}v/9999999999999.a.b/", script))[0] == 403
        session = re.search(r"ticket&#34;: &#34;(\w+)", text)
        assert session is not None
        sandboxed = {"Origin": "null"}
        asyncio.run(_watch(f"{view}ws", session[1], sandboxed, []))
        with pytest.raises(HTTPClientError, match="403"):
            asyncio.run(_watch(f"{page}v/9999999999999.a.b/ws", session[1], sandboxed, []))


@pytest.mark.slow
def test_who_took_the_port_of_a_dashboard_is_not_shown_in_jupyter(
    session_root: Path, tmp_path: Path
) -> None:
    context = nbray.init(
        num_cpus=1, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )
    port = int(str(context.dashboard_url).rpartition(":")[2])
    heard: list[str] = []

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(str(self.headers))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<script>act()</script>")

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged."""

    with jupyter_server(tmp_path) as url:
        page = f"{url}/nbray/{port}/"
        assert fetch(page, _LOGIN)[0] == 200
        for part in ("nbray.raylet", "nbray.dashboard"):  # else the raylet starts it again
            kill_all(running(session_root, part))
        wait_until(lambda: not _listens(port), "the dashboard's end")
        with ThreadingHTTPServer(("127.0.0.1", port), Stranger) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            for path in ("", "api/version"):
                status, body, _headers = fetch(page + path, _LOGIN)
                assert status == 502 and "act()" not in body
            with pytest.raises(HTTPClientError, match="502"):
                asyncio.run(_watch(f"{page}ws", "x", _LOGIN, []))
            server.shutdown()
            serving.join()
    token = (Path(context["session_dir"]) / "token").read_bytes()
    assert len(heard) == 3
    for secret in (token.hex(), "a-secret", "Cookie", "Bearer"):
        assert not any(secret in said for said in heard)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def _watch(
    url: str, session: str, allowed: dict[str, str], refused: list[dict[str, str]]
) -> None:
    """The page's WebSocket tells of the cluster; nobody else's does."""

    def request(headers: dict[str, str]) -> HTTPRequest:
        protocols = {"Sec-WebSocket-Protocol": f"nbray, {session}"}
        return HTTPRequest(url.replace("http://", "ws://"), headers={**protocols, **headers})

    for headers in refused:
        with pytest.raises(HTTPClientError, match="403"):
            await websocket_connect(request(headers))
    page = await websocket_connect(request(allowed))
    assert page.selected_subprotocol == "nbray"
    await page.write_message(json.dumps({"page": "nodes", "query": {}, "number": 1}))
    try:
        while True:
            message = await page.read_message()
            assert message is not None, "the connection was closed"
            if isinstance(message, str) and "b-nodes" in message:
                return
    finally:
        page.close()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_a_browser_shows_the_sandboxed_page_and_logs_out(
    session_root: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    context = nbray.init(
        num_cpus=1, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )
    port = str(context.dashboard_url).rpartition(":")[2]
    link = context.login_link()
    assert link is not None
    act = (
        "async () => { try { await fetch('/user/jo/api/terminals', {method: 'POST'}); "
        "return 'did' } catch (error) { return 'refused' } }"
    )
    with jupyter_server(tmp_path) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=60_000
        )
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{url}/api/status?token=a-secret")
        page.goto(f"{url}/nbray/{port}/")
        page.locator("body[data-live]").wait_for(timeout=60_000)  # it came over the socket
        assert page.evaluate("window.origin") == "null"
        assert page.evaluate(act) == "refused"
        direct = browser.new_page()
        direct.set_default_timeout(60_000)
        direct.goto(link)
        direct.get_by_text("nodes alive", exact=True).wait_for(timeout=60_000)
        direct.get_by_text("Log out").click()
        direct.get_by_text("Log this browser out").click()
        direct.get_by_text("Logged out").wait_for(timeout=60_000)
        direct.goto(f"http://{context.dashboard_url}/")
        assert "belongs to a cluster" in direct.inner_text("body")
        browser.close()
