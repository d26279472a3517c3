"""The sockets of pages and what changes something: who may, how much, and what odd clients get."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.processes import running
from support.web import bearer, fetch
from test_dashboard import facts_of, log_in
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

import nbray
from nbray.dashboard.gate import place_of
from nbray.dashboard.live import MOST_VIEWERS
from nbray.dashboard.pages import PAGES
from nbray.driver.context import NbrayContext
from nbray.job_submission import JobSubmissionClient
from nbray.state.dashboard import api_key
from nbray.testing import wait_until
from nbray.util.state import list_tasks


@pytest.fixture
def context(session_root: Path) -> NbrayContext:
    """A cluster with a dashboard on a free port."""
    return nbray.init(
        num_cpus=1, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )


@asynccontextmanager
async def page_socket(
    context: NbrayContext, cookie: str, ticket: str
) -> AsyncIterator[WebSocketClientConnection]:
    headers = {
        "Cookie": cookie, "Origin": f"http://{context.dashboard_url}",
        "Sec-WebSocket-Protocol": f"nbray, {ticket}",
    }  # fmt: skip
    found = await websocket_connect(
        HTTPRequest(f"ws://{context.dashboard_url}/ws", headers=headers)
    )
    try:
        yield found
    finally:
        found.close()


def facts(context: NbrayContext, cookie: str) -> dict[str, Any]:
    return facts_of(fetch(f"http://{context.dashboard_url}/", {"Cookie": cookie})[1])


async def answer(page: WebSocketClientConnection, said: object) -> Any:
    await page.write_message(json.dumps(said))
    found = await asyncio.wait_for(page.read_message(), 60)
    return None if found is None else json.loads(found)


def test_every_page_has_an_address_and_what_is_not_there_is_said(context: NbrayContext) -> None:
    base, cookie = f"http://{context.dashboard_url}/", {"Cookie": log_in(context)}
    for name, page in PAGES.items():
        status, text, headers = fetch(base + name, cookie)
        assert status == 200 and f"{page.title} - nbray</title>" in text, name
        assert "'unsafe-inline'" not in headers["Content-Security-Policy"].split("style-src")[0]
        assert "<script>" not in text
        if page.needs_id:
            assert "There is no such thing" in fetch(f"{base}{name}?id=feedfeed", cookie)[1]
    assert fetch(base + "nothing", cookie)[0] == 404
    assert fetch(base + "static/own/../../gate.py", cookie)[0] in (403, 404)
    status, text, _headers = fetch(f"{base}logs?node=127.0.0.1&name=../session.json", cookie)
    assert status == 200 and "has no log" in text
    assert fetch(base + "tasks?q=%FF", cookie)[0] == 400, "that is no text"
    odd = "tasks?q=%00%3Cscript%3E&page=-1&sort=%27&state=" + "x" * 3000
    status, text, _headers = fetch(base + odd, cookie)
    assert status == 200 and "<script>" not in text


def test_a_socket_follows_its_page_and_refuses_what_is_no_question(context: NbrayContext) -> None:
    cookie = log_in(context)
    ticket = facts(context, cookie)["ticket"]

    async def talk() -> None:
        async with page_socket(context, cookie, ticket) as page:
            first = await answer(page, {"page": "nodes", "query": {}, "number": 7})
            assert first["number"] == 7 and "b-nodes" in first["main"]
            second = await answer(page, {"page": "actors", "query": {"q": "x"}, "number": 8})
            while second["number"] != 8:
                second = json.loads(str(await page.read_message()))
            assert "b-actors" in second["main"]
        odd: list[Any] = [
            [], "x", 3, {"page": "nothing"}, {"page": "nodes", "number": "x"}, {"page": None},
        ]  # fmt: skip
        for said in odd:
            async with page_socket(context, cookie, ticket) as page:
                assert await answer(page, said) is None, said
        async with page_socket(context, cookie, ticket) as page:
            await page.write_message("x" * (1 << 18))
            assert await page.read_message() is None
        async with page_socket(context, cookie, ticket) as page:
            query = {"q": "y" * 100_000, "z": 3, "page": ["1"]}
            assert await answer(page, {"page": "nodes", "query": query, "number": 1}) is None

    asyncio.run(talk())


@pytest.mark.slow
def test_there_are_so_many_viewers_and_a_place_that_is_left_is_free_again(
    context: NbrayContext,
) -> None:
    cookie = log_in(context)
    ticket = facts(context, cookie)["ticket"]

    async def crowd() -> None:
        pages = [page_socket(context, cookie, ticket) for _ in range(MOST_VIEWERS)]
        opened = [await page.__aenter__() for page in pages]
        with pytest.raises(HTTPClientError, match="503"):
            async with page_socket(context, cookie, ticket):
                pass
        opened[0].close()
        while True:
            try:
                async with page_socket(context, cookie, ticket) as page:
                    assert await answer(page, {"page": "nodes", "query": {}, "number": 1})
                    break
            except HTTPClientError:
                await asyncio.sleep(0.05)
        for one in opened:
            one.close()

    asyncio.run(crowd())


@pytest.mark.slow
def test_a_browser_that_never_reads_costs_the_dashboard_nothing(
    context: NbrayContext, session_root: Path
) -> None:
    """It is asked for pages all the time; what is made for it waits until it has gone out."""
    cookie = log_in(context)
    ticket = facts(context, cookie)["ticket"]
    host, _, port = str(context.dashboard_url).rpartition(":")
    (child,) = running(session_root, "nbray.dashboard")
    deaf = []
    for _ in range(8):
        sock = socket.create_connection((host, int(port)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {context.dashboard_url}\r\nCookie: {cookie}\r\n"
            f"Origin: http://{context.dashboard_url}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: nbray, {ticket}\r\n\r\n".encode()
        )
        deaf.append(sock)
    before = child.memory_info().rss
    for number in range(3000):
        text = json.dumps({"page": ("logs", "tasks")[number % 2], "query": {}, "number": number,
                           "anew": True}).encode()  # fmt: skip
        frame = bytes([0x81, 0x80 | len(text)]) + bytes(4) + text
        for sock in deaf:
            sock.sendall(frame)
    url = f"http://{context.dashboard_url}/api/version"
    assert fetch(url, bearer(context))[0] == 200
    assert child.memory_info().rss - before < 64 << 20
    for sock in deaf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    assert fetch(url, bearer(context))[0] == 200


def logged_in(context: NbrayContext) -> tuple[str, str]:
    """The cookie of a login, and the token of its pages."""
    _status, _body, headers = fetch(str(context.login_link()))
    return str(headers["Set-Cookie"]).partition(";")[0], headers["Location"].partition("#token=")[2]


def test_what_changes_something_needs_the_pages_token_and_its_origin(context: NbrayContext) -> None:
    @nbray.remote(num_cpus=0)
    class Kept:
        def ping(self) -> int:
            return 1

    actor = Kept.remote()
    assert nbray.get(actor.ping.remote(), timeout=60) == 1
    cookie, mine = logged_in(context)
    _other, theirs = logged_in(context)
    assert mine and theirs and mine != theirs
    for page in ("", "actors", "jobs", f"actor?id={actor._actor_id.hex()}"):
        _status, text, _headers = fetch(
            f"http://{context.dashboard_url}/{page}", {"Cookie": cookie}
        )
        assert mine not in text, "who gets a cookie cannot change"
    origin = f"http://{context.dashboard_url}"
    key = api_key((Path(context["session_dir"]) / "token").read_bytes())
    said = {"act": "end-actor", "id": actor._actor_id.hex()}

    async def post(headers: dict[str, str], body: object = said) -> int:
        request = HTTPRequest(f"{origin}/act", "POST", headers, json.dumps(body))
        return (await AsyncHTTPClient().fetch(request, raise_error=False)).code

    async def tries() -> None:
        page = {"Cookie": cookie, "Nbray-Page": mine, "Origin": origin}
        for missing in page:
            assert await post({k: v for k, v in page.items() if k != missing}) in (401, 403)
        for wrong in ({"Nbray-Page": theirs}, {"Nbray-Page": "\xff"}, {"Origin": "http://evil.example"},
                      {"Origin": "null"}):  # fmt: skip
            assert await post({**page, **wrong}) == 403, wrong
        assert await post({"Authorization": f"Bearer {key}", "Origin": origin}) == 403
        for odd in ([], "x", {}, {"act": "nothing"}, {"act": "end-actor"}, {**said, "id": "ffff"},
                    {"act": "profile", "id": "../..", "kind": "x"}):  # fmt: skip
            assert await post(page, odd) == 404, odd
        assert nbray.get(actor.ping.remote(), timeout=60) == 1
        assert await post(page) == 200

    asyncio.run(asyncio.wait_for(tries(), 60))
    with pytest.raises(nbray.exceptions.ActorDiedError, match="dashboard"):
        nbray.get(actor.ping.remote(), timeout=60)


def test_a_login_leads_to_pages_of_this_dashboard_only() -> None:
    assert place_of("plot?name=cpu&embed=1") == "plot?name=cpu&embed=1"
    for said in (
        "",
        "//evil.example",
        "http://evil.example",
        "../x",
        "/tasks",
        "a\r\nb",
        "tasks#x",
    ):
        assert place_of(said) == "./"


def test_a_failed_task_shows_the_lines_of_the_log_up_to_its_end(context: NbrayContext) -> None:
    @nbray.remote(max_retries=0)
    def says(number: int) -> None:
        print(f"line {number} of mine", flush=True)
        if number < 3:
            raise ValueError(number)

    for number in range(4):
        nbray.wait([says.remote(number)], timeout=60)
    wait_until(lambda: len(list_tasks(filters=[("state", "=", "FAILED")])) == 3, "the failures")
    rows = list_tasks(filters=[("state", "=", "FAILED")], detail=True)
    (second,) = [row for row in rows if "ValueError: 1" in str(row.error_message)]
    url = f"http://{context.dashboard_url}/task?id={second.task_id}"
    status, text, _headers = fetch(url, {"Cookie": log_in(context)})
    assert status == 200 and "Log, up to its end" in text
    assert "line 0 of mine" in text and "line 1 of mine" in text and "line 2 of mine" not in text


def test_logs_are_taken_along_graphs_are_drawn_and_a_changed_request_is_refused(
    context: NbrayContext,
) -> None:
    @nbray.remote
    def child() -> None:
        print("a line of a child", flush=True)

    @nbray.remote(num_cpus=0)
    def parent() -> list[None]:
        found: list[None] = nbray.get([child.remote() for _ in range(3)])
        return found

    nbray.get(parent.remote(), timeout=60)
    wait_until(lambda: len(list_tasks(filters=[("state", "=", "FINISHED")])) == 4, "the tasks")
    base, who = f"http://{context.dashboard_url}", {"Cookie": log_in(context)}
    (top,) = [row for row in list_tasks(detail=True) if row.name == "parent"]
    (first, *_more) = [row for row in list_tasks(detail=True) if row.name == "child"]
    of_top = fetch(f"{base}/graph?id={top.task_id}", who)[1]
    assert of_top.count('class="edge"') == 3 and f"graph?id={first.task_id}" in of_top
    of_child = fetch(f"{base}/graph?id={first.task_id}", who)[1]
    assert of_child.count('class="edge"') == 1 and f"graph?id={top.task_id}" in of_child
    assert "parent" in fetch(f"{base}/graph?job={top.job_id}", who)[1]
    assert "is not the id of a driver" in fetch(f"{base}/graph?job=zz", who)[1]
    name = f"worker-{str(first.worker_id)[:12]}.out"
    status, text, headers = fetch(f"{base}/log?node={first.node_id}&name={name}", who)
    assert status == 200 and "a line of a child" in text
    assert headers["Content-Disposition"].endswith('.out"')
    for bad in ("..%2F..%2Ftoken", "nothing", "%00", ""):
        assert fetch(f"{base}/log?node={first.node_id}&name={bad}", who)[0] == 404, bad
    assert fetch(f"{base}/log?node=ffffffff&name={name}", who)[0] == 404
    active = json.loads(fetch(f"{base}/api/component_activities?timeout=5", bearer(context))[1])
    assert active["driver"]["is_active"] == "ACTIVE"
    assert active["driver"]["reason"] == "Number of active drivers: 1"
    client = JobSubmissionClient(context["gcs_address"])
    server = client._server
    sent = json.dumps({"entrypoint": "true", "submission_id": "mine"}).encode()
    other = sent.replace(b"mine", b"evil")
    shown = server._shown("POST", "/api/jobs/", sent)
    for body in (other, sent + b" ", b""):
        connection = http.client.HTTPConnection(str(context.dashboard_url), timeout=60)
        connection.request("POST", "/api/jobs/", body, shown)
        assert connection.getresponse().status in (401, 403), body
        connection.close()
        shown = server._shown("POST", "/api/jobs/", sent)  # each opens once
    assert [row.submission_id for row in client.list_jobs()] == [None]
