"""What the dashboard takes of a core with 50 nodes, 200 actors and 5,000 tasks a second.

``python tests/scenarios/dashboard_at_scale.py`` starts a head node with a dashboard and 200 actors,
and 49 simulated raylets around its GCS that report and answer as if they ran so many tasks. Then
pages are open, one after the other and three at once, as in a browser that reads all. It prints
parts of a core by the processor's time, which load from elsewhere does not change, and how often an
open page has had news.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import uvloop
from many_nodes import SimulatedRaylet
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

import nbray
from nbray.common.config import Config
from nbray.driver.driver import current_driver
from nbray.testing import own_sessions
from nbray.wire import gcs_messages as g
from nbray.wire import state_messages as s
from nbray.wire.credentials import read_identity
from nbray.wire.grpc_service import serve
from nbray.wire.records import TaskEvent

_FUNCTIONS = [f"function_{number}" for number in range(20)]
_PAGES = (
    "", "nodes", "tasks", "actors", "objects", "jobs", "groups", "logs", "events", "timeline",
    "profile", "graphs", "bandwidth", "graph?job={job}",
)  # fmt: skip
_SETTLE_S = 4.0


class BusyNode:
    """What a node tells that runs ``rate`` tasks a second on four workers."""

    def __init__(self, raylet: SimulatedRaylet, rate: float, number: int) -> None:
        self.raylet = raylet
        self._rate = rate
        self.server: Any = None  # one that nobody holds ends
        self._workers = [os.urandom(28) for _ in range(4)]
        self._began = time.time()
        self._ids = itertools.count(number << 32)
        raylet.row.hostname = f"simulated-{number}"
        raylet.row.stats |= {
            "memory_total": 4e9, "store_used": 1e6, "store_total": 1e9, "workers": 4.0,
            "cpu_percent": 50.0, "net_received": 1e9, "net_sent": 1e9, "disk_used": 1e9,
            "disk_total": 1e10,
        }  # fmt: skip

    def load(self) -> s.NodeLoad:
        """The counts of its report."""
        done = int((time.time() - self._began) * self._rate) // len(_FUNCTIONS)
        counts = {name: (done, done // 1000, 0) for name in _FUNCTIONS}
        return s.NodeLoad([], counts)

    async def list_tasks(self, request: s.TasksRequest) -> s.Tasks:
        """The newest that ended, as a real node samples them, and one that runs on each worker."""
        now = time.time()
        since = max(request.since, now - 10.0)
        count = min(request.limit, int((now - since) * self._rate))
        row = self.raylet.row
        sources = [s.TaskSource(row.node_id, worker, 1000 + i)
                   for i, worker in enumerate(self._workers)]  # fmt: skip
        rows = []
        for index in range(count):
            ended = now - (count - index) / self._rate
            rows.append((index % 4, self._event("FINISHED", ended - 0.0007, ended)))
        rows += [(index, self._event("RUNNING", now - 0.001, 0.0)) for index in range(4)]
        return s.Tasks(sources, rows, {name: 5 for name in _FUNCTIONS}, 1000)

    def _event(self, state: str, started: float, ended: float) -> TaskEvent:
        number = next(self._ids)
        return TaskEvent(
            b"task" * 3 + number.to_bytes(8, "big") + b"\1\0\0\0", 0, _FUNCTIONS[number % 20],
            b"\1\0\0\0", b"", 0, state, started - 0.01, started, ended,
            function=_FUNCTIONS[number % 20],
        )  # fmt: skip

    async def list_workers(self, _request: g.Empty) -> s.Workers:
        """Its four workers."""
        row = self.raylet.row
        return s.Workers(
            [
                s.WorkerRow(worker, row.node_id, row.host, 1000 + index, "BUSY", b"\1\0\0\0", b"",
                            50 << 20, time.time(), cpu_percent=25.0)
                for index, worker in enumerate(self._workers)
            ]
        )  # fmt: skip

    async def list_objects(self, _request: s.ObjectsRequest) -> s.Objects:
        """Nothing."""
        return s.Objects([])

    async def list_logs(self, _request: s.LogsRequest) -> s.LogFiles:
        """Two a worker."""
        return s.LogFiles({f"worker-{w.hex()[:12]}.{end}": 1000
                           for w in self._workers for end in ("out", "err")})  # fmt: skip


@dataclass
class Watched:
    """What one or several open pages cost."""

    pages: list[str]
    core: float = 0.0
    news_per_s: list[float] = field(default_factory=list)


class Viewer:
    """A browser with one page open, which reads all and counts it."""

    def __init__(self, base: str, cookie: str, ticket: str, page: str) -> None:
        name, _, query = page.partition("?")
        self._said = {
            "page": name, "query": dict(part.split("=") for part in query.split("&") if part),
            "number": 1, "anew": True,
        }  # fmt: skip
        self._request = HTTPRequest(
            f"ws://{base}/ws",
            headers={"Cookie": cookie, "Origin": f"http://{base}",
                     "Sec-WebSocket-Protocol": f"nbray, {ticket}"},
        )  # fmt: skip
        self.news = 0

    async def look(self) -> None:
        """Read for ever."""
        socket = await websocket_connect(self._request, max_message_size=64 << 20)
        try:
            await socket.write_message(json.dumps(self._said))
            while (message := await socket.read_message()) is not None:
                self.news += 1
                if trouble := json.loads(message).get("error"):
                    print(self._said["page"], trouble, file=sys.stderr)
        finally:
            socket.close()


@nbray.remote(num_cpus=0)
class Idle:
    """One of many."""

    def here(self) -> int:
        return 1


async def _simulate(address: str, token: bytes, count: int, rate: float) -> list[BusyNode]:
    """So many nodes that run ``rate`` tasks a second together."""
    config = Config.from_env()
    found = []
    for number in range(count):
        raylet = SimulatedRaylet(address, token, config, 0)
        node = BusyNode(raylet, rate / count, number)
        node.server, port = await serve(
            "127.0.0.1", 0, token,
            {"Ping": (g.Empty, _ping), "ListTasks": (s.TasksRequest, node.list_tasks),
             "ListWorkers": (g.Empty, node.list_workers),
             "ListObjects": (s.ObjectsRequest, node.list_objects),
             "ListLogs": (s.LogsRequest, node.list_logs)},
        )  # fmt: skip
        raylet.row.grpc_port = port
        raylet._reporter._make = lambda node=node: g.Report(node.raylet.row, node.load())
        await raylet.join()
        found.append(node)
    return found


async def _ping(_request: g.Empty) -> g.Empty:
    return g.Empty()


async def _watch(
    process: psutil.Process, viewers: list[Viewer], pages: list[str], seconds: float
) -> Watched:
    looking = [asyncio.create_task(viewer.look()) for viewer in viewers]
    await asyncio.sleep(_SETTLE_S)
    before, news = sum(process.cpu_times()[:2]), [viewer.news for viewer in viewers]
    began = time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - began
    found = Watched(pages, (sum(process.cpu_times()[:2]) - before) / passed)
    found.news_per_s = [
        round((viewer.news - was) / passed, 2) for viewer, was in zip(viewers, news, strict=True)
    ]
    for task in looking:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return found


async def measure(
    address: str, token: bytes, base: str, cookie: str, args: argparse.Namespace
) -> list[Watched]:
    """The cost of each page."""
    driver = current_driver()
    assert driver is not None and driver.node is not None
    nodes = await _simulate(address, token, args.nodes - 1, args.rate)
    page = await asyncio.to_thread(_fetch, f"http://{base}/", cookie)
    found = re.search(r"ticket&#34;: &#34;(\w+)", page)
    assert found is not None, page[:500]
    while len(driver.node.session.read_info()["pids"]) < 3:  # it is noted after it was started
        await asyncio.sleep(0.1)
    process = psutil.Process(driver.node.session.read_info()["pids"][2])
    job = nbray.get_runtime_context().get_job_id()

    def viewer(page: str) -> Viewer:
        return Viewer(base, cookie, found[1], page.format(job=job))

    await _watch(process, [viewer("graphs")], [], 1.0)  # Bokeh is imported by the first plot
    results = [await _watch(process, [], ["(nobody looks)"], args.seconds)]
    page = await asyncio.to_thread(_fetch, f"http://{base}/", cookie)
    shown = re.findall(r'class="tile"><b>(.*?)</b><span>(.*?)</span>', page)
    print("; ".join(re.sub("<.*?>", "", " ".join(tile)) for tile in shown))
    print("dashboard:", process.pid, process.cmdline()[3:5])
    for name in args.pages.split(",") if args.pages is not None else _PAGES:
        results.append(await _watch(process, [viewer(name)], [name or "overview"], args.seconds))
    three = ["", "tasks", "timeline"]
    results.append(await _watch(process, [viewer(name) for name in three], three, args.seconds))
    await asyncio.gather(*(node.raylet.stop() for node in nodes))
    await asyncio.gather(*(node.server.stop(None) for node in nodes))
    return results


def _fetch(url: str, cookie: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Cookie": cookie})) as reply:
        return str(reply.read().decode())


def _log_in(link: str) -> str:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: object) -> None:
            return None

    try:
        urllib.request.build_opener(Stay()).open(link)
    except urllib.error.HTTPError as error:
        return str(error.headers["Set-Cookie"]).partition(";")[0]
    raise AssertionError("The login leads nowhere.")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--actors", type=int, default=200)
    parser.add_argument("--rate", type=float, default=5000.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--pages")
    args = parser.parse_args()
    with own_sessions():
        context = nbray.init(
            "local", num_cpus=2, include_dashboard=True, dashboard_port=0, log_to_driver=False
        )
        driver = current_driver()
        assert driver is not None
        read_identity(driver.core.session)
        actors = [Idle.options(name=f"idle-{number}").remote() for number in range(args.actors)]
        nbray.get([actor.here.remote() for actor in actors], timeout=300)
        link = context.login_link()
        assert link is not None and context.dashboard_url is not None
        cookie = _log_in(link)
        for one in uvloop.run(
            measure(
                context["gcs_address"], driver.core.session.token, context.dashboard_url, cookie,
                args,
            )
        ):  # fmt: skip
            news = ", ".join(map(str, one.news_per_s))
            print(f"{' + '.join(p or 'overview' for p in one.pages):40} {one.core:7.1%}  {news}")


if __name__ == "__main__":
    main()
