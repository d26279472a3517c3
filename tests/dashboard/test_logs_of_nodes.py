"""Logs by the dashboard: long ones, long lines, and readers who have gone."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from support.web import bearer, fetch
from test_dashboard import log_in
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

import nbray
from nbray.common.session import Session
from nbray.dashboard.jobs import JobLogs
from nbray.driver.context import NbrayContext
from nbray.state.dashboard import Dashboard
from nbray.state.queries import Query
from nbray.testing import wait_until
from nbray.wire.state_messages import LogPart, ReadLog
from nbray.wire.submission_messages import Submission


@pytest.fixture
def context(session_root: Path) -> NbrayContext:
    """A cluster with a dashboard on a free port."""
    return nbray.init(
        num_cpus=1, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )


def test_readers_of_quiet_logs_who_have_gone_hold_up_nobody(context: NbrayContext) -> None:
    url = f"http://{context.dashboard_url}/api/v0/logs"
    names = bearer(context)
    session = Session(Path(context["session_dir"]))
    session.log_path("quiet.log").write_text("a line\n")
    assert fetch(f"{url}/file?filename=quiet.log", names)[1] == "a line\n"
    host, _, port = context.dashboard_url.rpartition(":")
    for _ in range(20):
        reader = http.client.HTTPConnection(host, int(port), timeout=60)
        reader.request("GET", "/api/v0/logs/stream?filename=quiet.log", headers=names)
        assert reader.getresponse().readline() == b"a line\n"
        reader.close()
    assert fetch(f"{url}/file?filename=quiet.log", names)[1] == "a line\n"
    wait_until(lambda: len(session.read_info()["pids"]) > 2, "the session to tell of the dashboard")
    dashboard = psutil.Process(session.read_info()["pids"][2])
    dashboard.terminate()
    wait_until(lambda: not dashboard.is_running() or dashboard.status() == "zombie", "its end", 30)


def test_of_a_log_with_long_lines_the_last_ones_are_shown(context: NbrayContext) -> None:
    lines = [f"line {number} {'x' * 400}" for number in range(5000)]
    folder = Path(context["session_dir"]) / "logs"
    (folder / "long.log").write_text("\n".join([*lines, "the very last"]) + "\n")
    (folder / "one.log").write_text("\r".join([*lines, "100%"]))
    (node,) = nbray.nodes()
    cookie = {"Cookie": log_in(context)}
    for name, last in (("long.log", "the very last"), ("one.log", "100%")):
        url = f"http://{context.dashboard_url}/logs?node={node['NodeID']}&name={name}"
        page = fetch(url, cookie)[1]
        assert f">{last}</span>" in page, name
    taken = fetch(f"http://{context.dashboard_url}/log?node={node['NodeID']}&name=one.log", cookie)
    assert taken[1].endswith("100%"), "all of it, and not one part"


class Growing:
    """A job's log that is longer by two parts whenever one was read."""

    def __init__(self) -> None:
        self.asked = 0

    async def submission(self, job_id: str, _doing: str) -> Submission:
        return Submission(job_id, "x", state="RUNNING", node_id=bytes(28))

    async def ask(self, query: Query[LogPart]) -> LogPart:
        self.asked += 1
        assert self.asked < 100, "it comes to an end"
        place = msgspec.msgpack.decode(query.body, type=ReadLog).offset
        return LogPart(b"x" * 1000, place + 1000, end=2000 * (1 + self.asked))

    @property
    def submissions(self) -> Growing:
        return self


def test_a_jobs_log_that_grows_while_it_is_read_is_read_to_where_it_ended() -> None:
    async def read() -> bytes:
        server = HTTPServer(Application([(r"/(.*)/logs", JobLogs, {"jobs": Growing()})]))
        sock, port = bind_unused_port()
        server.add_socket(sock)
        try:
            url = f"http://127.0.0.1:{port}/job/logs"
            return (await AsyncHTTPClient().fetch(url, raise_error=False)).body
        finally:
            server.stop()

    assert json.loads(asyncio.run(read())) == {"logs": "x" * 4000}


def sealed(dashboard: Dashboard, target: str) -> tuple[int, bytes]:
    """Status and body of an answer that is sealed, however long it takes."""
    asked = dashboard.signed("GET", target, time.time())
    connection = http.client.HTTPConnection(dashboard.place, timeout=120)
    with contextlib.closing(connection):
        connection.request("GET", target, headers=asked)
        response = connection.getresponse()
        body = response.read()
    headers = {name.title(): value for name, value in response.getheaders()}
    dashboard.check_answer(asked, response.status, headers, body)
    return response.status, body


def test_an_answer_with_a_seal_that_has_no_end_is_refused_and_what_is_short_is_not(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an answer is sent as a whole, and would be kept until then."""
    monkeypatch.setenv("NBRAY_ROTATION_MAX_BYTES", "0")  # so large a log is cut at the next look
    context = nbray.init(
        num_cpus=1, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )
    session = Session(Path(context["session_dir"]))
    with open(session.log_path("large.log"), "wb") as log:
        log.writelines(b"%01023d\n" % number for number in range(40_000))
    dashboard = Dashboard(context.dashboard_url, session.path.name, session.token)
    log_of = "/api/v0/logs/{}?filename=large.log&lines={}"
    assert sealed(dashboard, log_of.format("file", 2))[1].endswith(b"39999\n")
    refused = (413, b"So large an answer is given by the dashboard itself alone, or in parts.")
    assert sealed(dashboard, log_of.format("stream", 1 << 40)) == refused
    assert sealed(dashboard, log_of.format("file", 1 << 40)) == refused
    url = f"http://{context.dashboard_url}{log_of.format('file', 1 << 40)}"
    assert len(fetch(url, bearer(context))[1]) == 40_000 << 10
