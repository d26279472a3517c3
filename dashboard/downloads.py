"""What a browser takes along: a log of a node, and the cluster's tasks as a Chrome trace."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from nbray.state import queries as q
from nbray.state.client import RpcError
from nbray.state.trace import MOST_TASKS, chrome_trace

from .answers import LARGEST_SEALED, Sealed
from .parts.cluster import Cluster
from .parts.page import NotFoundError, find


class Download(RequestHandler):
    """What these share."""

    def initialize(self, cluster: Cluster) -> None:
        """Ask ``cluster``."""
        self.cluster = cluster

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what was wrong in plain text."""
        _kind, error, _trace = kwargs.get("exc_info", (None, None, None))
        text = self._reason
        if isinstance(error, HTTPError):
            text = error.log_message or text
        elif isinstance(error, RpcError):
            self.set_status(503)
            text = str(error)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)


class Trace(Download):
    """What the cluster remembers of tasks as a Chrome trace."""

    async def get(self) -> None:
        """All of it."""
        found = await self.cluster.ask(q.tasks(MOST_TASKS), 5.0)
        events = chrome_trace(found.rows, time.time() * 1000)
        self.set_header("Content-Type", "application/json")
        self.set_header("Content-Disposition", 'attachment; filename="nbray-trace.json"')
        self.finish(await asyncio.to_thread(json.dumps, events))


class Log(Download):
    """A log of a node, from its beginning to where it ends now."""

    async def get(self) -> None:
        """The text in parts; a reader that does not read holds up itself only."""
        said, name = self.get_query_argument("node", ""), self.get_query_argument("name", "")
        try:
            node = find(await self.cluster.nodes(), said, "node", lambda row: row.node_id)
        except NotFoundError as error:
            raise HTTPError(404, str(error).replace("%", "%%")) from error
        ask = self.cluster.client.ask
        part = await ask(q.log(node.node_id, name, 0, 0))
        if part.missing:
            raise HTTPError(404, f"Node {node.node_id[:8]} has no such log")
        saved = re.sub(r"[^\w.-]", "_", f"{node.node_id[:8]}-{name}", flags=re.ASCII)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Content-Disposition", f'attachment; filename="{saved}"')
        end = part.end
        if isinstance(self.request.connection, Sealed) and end > LARGEST_SEALED:
            raise HTTPError(413, "So large a log is taken along from the dashboard itself alone")
        try:
            while part.data:
                self.write(part.data)
                await self.flush()
                if part.offset >= end:
                    return  # what is written meanwhile is the next download's
                part = await ask(q.log(node.node_id, name, part.offset, 0))
        except (StreamClosedError, RpcError):
            self.request.connection.stream.close()  # type: ignore[union-attr]
