"""The dashboard: nobody comes in without the token, and who does sees the cluster live."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.commands import command
from support.descriptors import no_file_left
from support.strangers import eavesdropper, is_closed
from support.web import bearer, fetch
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.websocket import websocket_connect

import nbray
from nbray.common.history import CLUSTER, COLUMNS, History
from nbray.dashboard.gate import Authenticator
from nbray.driver.context import NbrayContext
from nbray.driver.joining import find_session
from nbray.state.dashboard import LOGIN, LOGIN_S, Dashboard, api_key, check_key, make_key
from nbray.testing import wait_until


@pytest.fixture
def context(session_root: Path) -> NbrayContext:
    """A cluster with a dashboard on a free port."""
    return nbray.init(
        num_cpus=2, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )


def log_in(context: NbrayContext) -> str:
    """The cookie that the login link gives."""
    link = context.login_link()
    assert link is not None
    status, _body, headers = fetch(link)
    assert status == 302
    cookie = str(headers["Set-Cookie"])
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    again, body, _headers = fetch(link)
    assert again == 401 and "nbray dashboard" in body, "a link opens once"
    mine = cookie.partition(";")[0]
    status, _body, headers = fetch(f"{link}&to=tasks", {"Cookie": mine})
    assert (status, headers["Location"]) == (302, "tasks"), "and leads who is logged in"
    assert "Set-Cookie" not in headers
    return mine


def test_without_the_token_nothing_is_served(context: NbrayContext) -> None:
    base = f"http://{context.dashboard_url}"
    for path in (
        "/",
        "/ws",
        "/static/js/bokeh.min.js",
        "/tasks",
        "/act",
        "/api/nodes",
        "/login",
        "/login?key=1.a.b",
    ):
        status, body, _headers = fetch(base + path)
        assert status == 401, path
        assert "cluster" in body
    assert fetch(base + "/api/nodes", {"Authorization": "Bearer 00"})[0] == 403
    assert context.dashboard_url == context["webui_url"]


def test_programs_read_json_with_the_token(context: NbrayContext) -> None:
    base = f"http://{context.dashboard_url}/api"
    _status, body, _headers = fetch(f"{base}/nodes", bearer(context))
    (node,) = json.loads(body)["nodes"]
    assert node["state"] == "ALIVE" and node["resources_total"]["CPU"] == 2
    status, body, _headers = fetch(f"{base}/cluster_status", bearer(context))
    assert status == 200 and json.loads(body)["nodes_alive"] == 1
    assert fetch(f"{base}/nothing", bearer(context))[0] == 404


def test_counts_of_tasks_are_exact(context: NbrayContext) -> None:
    @nbray.remote(max_retries=0)
    def odd_fails(i: int) -> None:
        if i % 2:
            raise ValueError(i)

    @nbray.remote
    def endless() -> None:
        threading.Event().wait(600)

    refs = [odd_fails.remote(i) for i in range(100)]
    nbray.wait(refs, num_returns=100, timeout=60)
    # One runs, the others are queued.
    stopped = [endless.remote() for _ in range(4)]
    nbray.wait(stopped, timeout=1)
    for ref in stopped:
        nbray.cancel(ref)
    nbray.wait(stopped, num_returns=4, timeout=60)

    def counts() -> dict[str, int]:
        url = f"http://{context.dashboard_url}/api/cluster_status"
        found: dict[str, int] = json.loads(fetch(url, bearer(context))[1])["tasks"]
        return found

    expected = {"finished": 50, "failed": 50, "cancelled": 4}
    wait_until(lambda: counts() == expected, "all 104 tasks in the counts")


def test_a_browser_that_logged_in_sees_what_happens(context: NbrayContext) -> None:
    cookie = log_in(context)
    status, page, _headers = fetch(f"http://{context.dashboard_url}/", {"Cookie": cookie})
    assert status == 200
    ticket = facts_of(page)["ticket"]

    class Watched:
        def ping(self) -> int:
            return 1

    actor = nbray.remote(Watched).options(name="<b>bold</b>").remote()
    assert nbray.get(actor.ping.remote(), timeout=60) == 1

    def request(origin: str, shown: str = ticket, **forwarded: str) -> HTTPRequest:
        return HTTPRequest(
            f"ws://{context.dashboard_url}/ws",
            headers={
                "Cookie": cookie, "Origin": origin,
                "Sec-WebSocket-Protocol": f"nbray, {shown}", **forwarded,
            },
        )  # fmt: skip

    async def until(wanted: Callable[[str], bool]) -> None:
        for refused in (request("http://elsewhere.example"),
                        request(f"http://{context.dashboard_url}", "no ticket")):  # fmt: skip
            with pytest.raises(HTTPClientError, match="403"):
                await websocket_connect(refused)
        forwarded = {"X-Forwarded-Host": "codes.example"}
        (await websocket_connect(request("https://codes.example", **forwarded))).close()
        socket_ = await websocket_connect(request(f"http://{context.dashboard_url}"))
        await socket_.write_message(json.dumps({"page": "actors", "query": {}, "number": 1}))
        try:
            while True:
                message = await socket_.read_message()
                assert message is not None, "the dashboard closed the connection"
                if isinstance(message, str) and wanted(message):
                    return
        finally:
            socket_.close()

    def shows_the_actor(message: str) -> bool:
        assert "<b>bold" not in message, "names are escaped"
        return "Watched" in message and "&lt;b&gt;bold" in message

    asyncio.run(asyncio.wait_for(until(shows_the_actor), 60))


def facts_of(page: str) -> dict[str, Any]:
    """What a page says to its script."""
    found = re.search(r'data-facts="([^"]+)"', page)
    assert found is not None
    facts: dict[str, Any] = json.loads(html.unescape(found[1]))
    return facts


def test_a_port_in_use_is_one_clear_line_when_it_was_asked_for(session_root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"Failed to bind to 127.0.0.1:{port}"):
            nbray.init(num_cpus=1, include_dashboard=True, dashboard_port=port)
    assert not nbray.is_initialized()


def test_ports_that_others_have_taken_stop_no_cluster(session_root: Path) -> None:
    with contextlib.ExitStack() as taken:
        ports = []
        for port in range(8265, 8316):
            with contextlib.suppress(OSError):  # somebody else has it, and may leave it meanwhile
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
        context = nbray.init(num_cpus=1, object_store_memory=32 << 20, include_dashboard=True)
    assert int(str(context.dashboard_url).rpartition(":")[2]) not in ports
    wait_until(lambda: not context.probe_dashboard(), "the dashboard to serve")


@pytest.mark.parametrize(
    "wanted",
    [{"dashboard_port": 1 << 70}, {"dashboard_port": -1}, {"dashboard_host": ""},
     {"dashboard_host": "203.0.113.9"}],
)  # fmt: skip
def test_a_dashboard_that_was_described_and_cannot_be_is_refused(
    session_root: Path, wanted: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, OSError), match="dashboard"):
        nbray.init(num_cpus=1, include_dashboard=True, **wanted)
    assert not nbray.is_initialized() and not list(session_root.iterdir())


def test_a_cluster_that_nobody_looks_at_has_no_dashboard_and_keeps_the_figures_for_it(
    context: NbrayContext,
) -> None:
    session, info = find_session("auto")
    assert len(info["pids"]) == 2, "GCS and raylet"
    wait_until((session.path / "series" / "cluster.series").exists, "the series")
    series = History(session.path / "series" / "cluster.series", COLUMNS, CLUSTER, writable=False)
    wait_until(lambda: len(series.rows(time.time() - 60, time.time())) > 1, "figures")
    assert f"http://{context.dashboard_url}/" in command("status").stdout
    assert fetch(f"http://{context.dashboard_url}/api/version", bearer(context))[0] == 200
    wait_until(lambda: len(session.read_info()["pids"]) == 3, "the session to tell of it")


def test_a_dashboard_that_dies_is_started_again_and_who_asked_meanwhile_is_answered(
    context: NbrayContext,
) -> None:
    url = f"http://{context.dashboard_url}/api/version"
    assert fetch(url, bearer(context))[0] == 200
    session, _ = find_session("auto")
    wait_until(lambda: len(session.read_info()["pids"]) == 3, "the session to tell of it")
    os.kill(session.read_info()["pids"][2], signal.SIGKILL)
    assert nbray.get(nbray.remote(os.getpid).remote(), timeout=60) > 0
    assert fetch(url, bearer(context))[0] == 200, "the request has waited for the next one"


def test_a_dashboard_that_cannot_be_started_again_yet_needs_no_visitor_later(
    context: NbrayContext,
) -> None:
    """It starts the manager of jobs, for which nobody need look."""
    assert fetch(f"http://{context.dashboard_url}/api/version", bearer(context))[0] == 200
    session, info = find_session("auto")
    wait_until(lambda: len(session.read_info()["pids"]) == 3, "the session to tell of it")
    ended = session.read_info()["pids"][2]
    log = session.log_path("raylet.log")
    with no_file_left(info["pids"][1]):
        os.kill(ended, signal.SIGKILL)
        wait_until(lambda: "DashboardSupervisor failed" in log.read_text(), "a start to fail")
    wait_until(lambda: session.read_info()["pids"][2:] != [ended], "the next one")
    assert len(session.read_info()["pids"]) == 3, "in its place"


def test_the_command_prints_the_link_and_status_tells_of_the_dashboard(
    context: NbrayContext,
) -> None:
    shown = command("dashboard").stdout
    assert shown.startswith(f"http://{context.dashboard_url}/login?key=")
    assert fetch(shown.strip())[0] == 302
    assert f"http://{context.dashboard_url}/" in command("status").stdout


def test_a_key_holds_for_its_purpose_and_its_time() -> None:
    key = make_key(b"token", LOGIN, 1000.0, 60.0)
    assert check_key(b"token", LOGIN, key, 1059.0)
    assert not check_key(b"token", LOGIN, key, 1061.0)
    assert not check_key(b"token", "session", key, 1001.0)
    assert not check_key(b"other", LOGIN, key, 1001.0)
    assert not check_key(b"token", LOGIN, "9999999999.a.b", 1001.0)


# --- who is who --------------------


def test_links_and_cookies_are_of_one_dashboard() -> None:
    """Clusters of one user have one token; a browser sends a cookie to every port of a host."""
    mine = Dashboard("127.0.0.1:8265", "s1", b"token")
    now = 1000.0

    def keeper(dashboard: Dashboard) -> Authenticator:
        return Authenticator(dashboard, lambda: now)

    def key() -> str:
        return mine.login_link(now).partition("key=")[2]

    assert keeper(mine).log_in(key())
    for other in (
        Dashboard("127.0.0.1:8266", "s1", b"token"),
        Dashboard("127.0.0.1:8265", "s2", b"token"),
        Dashboard("127.0.0.1:8265", "s1", b"other"),
    ):
        assert keeper(other).log_in(key()) is None
    door = keeper(mine)
    first, second = key(), key()
    assert door.log_in(first) and door.log_in(first) is None, "a link opens once"
    now += 1
    door.log_out(None)
    assert door.log_in(second) is None, "a link from before the log-out"
    assert door.log_in(key())
    now += LOGIN_S + 1
    assert door.log_in(second) is None


def test_a_browser_can_be_logged_out(context: NbrayContext) -> None:
    base = f"http://{context.dashboard_url}"
    first, second = log_in(context), log_in(context)
    unused = context.login_link()
    assert fetch(base + "/api/version", {"Cookie": first})[0] == 200
    assert post(base + "/logout", {"Cookie": first, "Origin": "http://elsewhere.example"}) == 403
    assert post(base + "/logout", {"Cookie": first}) == 200
    assert fetch(base + "/api/version", {"Cookie": first})[0] == 401
    assert fetch(base + "/api/version", {"Cookie": second})[0] == 200
    assert "logged out" in command("dashboard", "--log-out").stdout
    assert fetch(base + "/api/version", {"Cookie": second})[0] == 401
    assert unused is not None and fetch(unused)[0] == 401


def post(url: str, headers: dict[str, str]) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, b"", headers), timeout=60) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "file://", "about:blank", "", "data:", "http://"]
)
def test_a_cookie_opens_nothing_to_other_origins(origin: str) -> None:
    door = Authenticator(Dashboard("127.0.0.1:8265", "s1", b"token"))
    key = door.dashboard.login_link(door.clock()).partition("key=")[2]
    cookie = {"Cookie": f"{door.cookie}={door.log_in(key)}", "Host": "127.0.0.1:8265"}

    def judge(**more: str) -> int:
        headers = HTTPHeaders({**cookie, **more})
        line = RequestStartLine("GET", "/api/nodes", "HTTP/1.1")
        return door.judge(HTTPServerRequest(start_line=line, headers=headers))

    assert judge() == judge(Origin="http://127.0.0.1:8265") == 200
    assert judge(Origin=origin) == 403


def test_every_answer_keeps_the_page_to_itself(context: NbrayContext) -> None:
    base = f"http://{context.dashboard_url}"
    cookie = {"Cookie": log_in(context)}
    for path, headers in (("/", cookie), ("/api/nodes", cookie), ("/", {}), ("/login", {})):
        _status, _body, found = fetch(base + path, headers)
        policy = found["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'self'" in policy
        assert found["X-Frame-Options"] == "SAMEORIGIN"
        assert found["X-Content-Type-Options"] == "nosniff"
        assert found["Referrer-Policy"] == "same-origin"


def test_who_listens_where_a_dashboard_was_hears_no_secret_and_is_not_believed() -> None:
    token = os.urandom(32)
    with eavesdropper() as (address, heard):
        assert "does not answer" in Dashboard(address, "s1", token).probe()
        said = b"".join(heard)
        assert b"/api/version" in said
        for secret in (token, token.hex().encode(), api_key(token).encode(), b"Cookie", b"Bearer"):
            assert secret not in said

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"version": "0.1.0"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged."""

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        said_of_it = Dashboard(f"127.0.0.1:{server.server_port}", "s1", token).probe()
        serving.join()
    assert "is not this cluster's dashboard" in said_of_it


def test_programs_read_with_a_key_that_is_not_the_token(context: NbrayContext) -> None:
    key = command("dashboard", "--api-key").stdout.strip()
    token = (Path(context["session_dir"]) / "token").read_bytes()
    assert key not in (token.hex(), token.decode(errors="replace"))
    url = f"http://{context.dashboard_url}/metrics"
    assert fetch(url, {"Authorization": f"Bearer {key}"})[0] == 200


@pytest.mark.slow
def test_strangers_cannot_hold_the_dashboard(session_root: Path) -> None:
    context = nbray.init(
        num_cpus=1, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )
    host, _, port = str(context.dashboard_url).rpartition(":")
    cookie = log_in(context)

    def connect() -> socket.socket:
        return stack.enter_context(socket.create_connection((host, int(port)), timeout=60))

    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            connect()
        slow = connect()
        slow.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
        half = connect()
        half.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        url = f"http://{context.dashboard_url}/api/version"
        assert fetch(url, {"Cookie": cookie})[0] == 200
        assert is_closed(slow) and is_closed(half)
    log = (Path(context["session_dir"]) / "logs" / "dashboard.log").read_text()
    assert len(log.splitlines()) < 30, log
