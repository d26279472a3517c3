"""``/api``: the state of the cluster as JSON; ``/metrics``: for Prometheus.

The gate has judged the request already.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler

from nbray.state import queries as q
from nbray.state.client import RpcError
from nbray.state.exposition import CONTENT_TYPE, cluster_metrics

from .gate import log_request
from .jobs import LARGEST_SUBMISSION, Activities, Job, JobLogs, Jobs, JobsPort, StopJob
from .jobs_packages import LARGEST_PACKAGE, Package
from .jobs_tail import JobTail
from .state_rest import state_routes
from .watcher import Watcher

RAY_VERSION = "2.60.0"
"""Whose REST API this is, for Ray's clients, which ask."""

_MOST_TASKS = 1000
_UPLOAD_S = 3600.0

_TABLES: dict[str, q.Query[Any]] = {
    "nodes": q.NODES,
    "actors": q.ACTORS,
    "jobs": q.JOBS,
    "demand": q.DEMAND,
    "failures": q.FAILURES,
}


class _Handler(RequestHandler):
    def initialize(self, watcher: Watcher) -> None:
        self.watcher = watcher

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        _kind, error, _trace = kwargs.get("exc_info", (None, None, None))
        if isinstance(error, RpcError):
            self.set_status(503)
        self.finish({"error": str(error) if error is not None else self._reason})

    async def say_rows(self, name: str, rows: Sequence[Any], **more: Any) -> None:
        """Answer by rows, and more; others are answered as well while there are thousands."""

        def text() -> str:
            return json.dumps({name: [asdict(row) for row in rows], **more})

        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.write(await asyncio.to_thread(text))


class _Version(_Handler):
    """Ray's clients need the first four fields: the version of the protocol, and which Ray."""

    def get(self) -> None:
        self.write(
            {
                "version": "4",
                "ray_version": RAY_VERSION,
                "ray_commit": "nbray",
                "session_name": self.watcher.cluster,
                "nbray_version": version("nbray"),
                "gcs_address": self.watcher.client.address,
            }
        )


class _Table(_Handler):
    async def get(self, name: str) -> None:
        if name not in _TABLES:
            self.set_status(404)
            self.write({"error": f"There is no table {name}: {', '.join(_TABLES)}."})
            return
        rows = await self.watcher.client.ask(_TABLES[name])
        await self.say_rows(name, rows)


class _ClusterStatus(_Handler):
    async def get(self) -> None:
        ask = self.watcher.client.ask
        nodes = [node for node in await ask(q.NODES) if node.state == "ALIVE"]
        totals = await ask(q.TASK_TOTALS)
        total: dict[str, float] = {}
        available: dict[str, float] = {}
        for node in nodes:
            for name, amount in node.resources_total.items():
                total[name] = total.get(name, 0.0) + amount
            for name, amount in node.resources_available.items():
                available[name] = available.get(name, 0.0) + amount
        self.write(
            {
                "nodes_alive": len(nodes),
                "resources_total": total,
                "resources_available": available,
                "demand": [asdict(row) for row in await ask(q.DEMAND)],
                "tasks": {
                    "finished": totals.finished,
                    "failed": totals.failed,
                    "cancelled": totals.cancelled,
                },
            }
        )


class _Metrics(_Handler):
    async def get(self) -> None:
        ask = self.watcher.client.ask
        nodes, totals, actors, demand, user = await asyncio.gather(
            ask(q.NODES), ask(q.TASK_TOTALS), ask(q.ACTORS), ask(q.DEMAND), ask(q.METRICS)
        )
        self.set_header("Content-Type", CONTENT_TYPE)
        text = await asyncio.to_thread(cluster_metrics, nodes, totals, actors, demand, user)
        self.write(text)


class _Discovery(_Handler):
    """Prometheus's HTTP service discovery: this dashboard, whose ``/metrics`` has all nodes'."""

    def get(self) -> None:
        labels = {"job": "nbray", "cluster": self.watcher.cluster}
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps([{"targets": [self.watcher.url], "labels": labels}]))


class _Tasks(_Handler):
    async def get(self) -> None:
        found = await self.watcher.client.ask(q.tasks(_MOST_TASKS))
        await self.say_rows(
            "tasks", found.rows[-_MOST_TASKS:],
            unfinished=found.unfinished, dropped=found.dropped, missing=found.missing,
        )  # fmt: skip


def allow_body(request: HTTPServerRequest) -> None:
    """Let a request that came in have the body that its kind may have."""
    connection: Any = request.connection
    if request.path == "/api/jobs/":
        connection.set_max_body_size(LARGEST_SUBMISSION)
    elif request.path.startswith("/api/packages/"):
        connection.set_max_body_size(LARGEST_PACKAGE)
        connection.set_body_timeout(_UPLOAD_S)


def rest(watcher: Watcher, jobs: JobsPort) -> Application:
    """The application of ``/metrics`` and everything below ``/api``."""
    mine = {"watcher": watcher}
    of_jobs = {"jobs": jobs}
    return Application(
        [
            (r"/api/version", _Version, mine),
            (r"/api/cluster_status", _ClusterStatus, mine),
            (r"/api/tasks", _Tasks, mine),
            (r"/api/prometheus/sd", _Discovery, mine),
            (r"/api/component_activities", Activities, of_jobs),
            (r"/api/jobs/", Jobs, of_jobs),
            (r"/api/jobs/([^/]+)", Job, of_jobs),
            (r"/api/jobs/([^/]+)/stop", StopJob, of_jobs),
            (r"/api/jobs/([^/]+)/logs", JobLogs, of_jobs),
            (r"/api/jobs/([^/]+)/logs/tail", JobTail, of_jobs),
            (r"/api/packages/([^/]+)/([^/]+)", Package, of_jobs),
            *state_routes(watcher.client.address),
            (r"/api/([a-z]+)", _Table, mine),
            (r"/metrics", _Metrics, mine),
            (r".*", _Missing, mine),
        ],
        log_function=log_request,
    )


class _Missing(_Handler):
    def get(self) -> None:
        self.set_status(404)
        self.write({"error": "There is no such page of the API."})
