"""The Jupyter Server extension: dashboards of the user's clusters below ``/nbray/``.

A browser that may use the Jupyter server sees the dashboards through it, wherever the server is: on
a laptop, behind JupyterHub, behind a tunnel. ``nbray/`` shows the newest cluster, ``nbray/PORT/``
the one whose dashboard has that port, if a session folder of this user knows it: nothing else
can be reached. Only reading is passed on. The dashboard gets a key that holds for a minute instead
of the browser's cookies, so that the cluster's token never leaves this process, and the Jupyter
server's secrets never leave it either.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import url_path_join
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError, authenticated
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from nbray.launcher.local import found_nodes
from nbray.state.client import RpcError, dashboard_url
from nbray.state.dashboard import SESSION, cookie_name, make_key

logger = logging.getLogger(__name__)

_KEY_S = 60.0
_KNOWN_S = 3.0
_REPLY_S = 30.0
_ASKED = ("Accept", "Accept-Language", "If-None-Match", "If-Modified-Since")
_ANSWERED = ("Content-Type", "Cache-Control", "Etag", "Last-Modified", "Location")


@dataclass(frozen=True)
class _Dashboard:
    url: str
    token: bytes

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def headers(self) -> dict[str, str]:
        """What lets a request in."""
        key = make_key(self.token, SESSION, time.time(), _KEY_S)
        return {"Cookie": f"{cookie_name(self.port)}={key}"}


class Dashboards:
    """Those that the session folders of this user know, looked up again after some seconds."""

    def __init__(self) -> None:
        self._found: list[_Dashboard] = []
        self._until = 0.0

    async def find(self, port: str) -> _Dashboard:
        """The dashboard with that port; the newest if it is empty.

        Raises:
            HTTPError: there is none.
        """
        if time.monotonic() > self._until or not any(self._matching(port)):
            self._found = await asyncio.to_thread(_look)
            self._until = time.monotonic() + _KNOWN_S
        for dashboard in self._matching(port):
            return dashboard
        which = f"No cluster of yours has a dashboard with port {port}" if port else (
            "No cluster of yours with a dashboard runs here"
        )  # fmt: skip
        # Jupyter's page for 404 shows the reason alone.
        raise HTTPError(404, reason=f"{which}: %nbray start --head in a notebook starts one")

    def _matching(self, port: str) -> list[_Dashboard]:
        return [found for found in self._found if port in ("", str(found.port))]


def _look() -> list[_Dashboard]:
    found: dict[str, _Dashboard] = {}
    for node in found_nodes():
        if not node.processes or node.gcs_address in found:
            continue
        try:
            token = node.session.token
            url = dashboard_url(node.gcs_address, token)
        except (RpcError, OSError) as error:  # it is leaving
            logger.info("Cluster %s does not tell of its dashboard: %s", node.gcs_address, error)
            continue
        if url:
            found[node.gcs_address] = _Dashboard(url, token)
    return list(found.values())


class VersionHandler(JupyterHandler):
    """Tells kernels of this server, which have no login, that the extension is there."""

    @allow_unauthenticated
    def get(self) -> None:
        """The version of nbray."""
        self.finish({"nbray": version("nbray")})


class _DashboardHandler(JupyterHandler):
    """What all handlers share that lead to a dashboard."""

    def initialize(self, dashboards: Dashboards) -> None:
        """Take the dashboards that are known."""
        self._dashboards = dashboards

    def _address(self, scheme: str, found: _Dashboard, path: str) -> str:
        """Where the request goes, with its query."""
        query = f"?{self.request.query}" if self.request.query else ""
        return f"{scheme}://{found.url}/{path}{query}"


def _unreachable(found: _Dashboard, error: object) -> HTTPError:
    return HTTPError(502, f"The dashboard at {found.url} does not answer: {error}")


class NewestHandler(_DashboardHandler):
    """Leads to the newest cluster's dashboard."""

    @authenticated
    async def get(self) -> None:
        """Redirect there."""
        found = await self._dashboards.find("")
        self.redirect(url_path_join(self.base_url, "nbray", str(found.port), "/"))


class PageHandler(_DashboardHandler):
    """Passes requests on that read."""

    @authenticated
    async def get(self, port: str, path: str) -> None:
        """Answer as the dashboard does."""
        found = await self._dashboards.find(port)
        asked = {
            name: self.request.headers[name] for name in _ASKED if name in self.request.headers
        }
        request = HTTPRequest(
            self._address("http", found, path), headers={**asked, **found.headers()},
            follow_redirects=False, connect_timeout=_REPLY_S, request_timeout=_REPLY_S,
        )  # fmt: skip
        try:
            reply = await AsyncHTTPClient().fetch(request, raise_error=False)
        except (HTTPClientError, OSError) as error:
            raise _unreachable(found, error) from error
        if reply.code == 599:
            raise _unreachable(found, reply.error)
        self.set_status(reply.code, reply.reason)
        for name in _ANSWERED:
            if name in reply.headers:
                self.set_header(name, reply.headers[name])
        if reply.body:
            self.write(reply.body)
        await self.finish()


class SocketHandler(WebSocketMixin, WebSocketHandler, _DashboardHandler):
    """Passes the messages of a page's WebSocket on, both ways."""

    def initialize(self, dashboards: Dashboards) -> None:
        """Take the dashboards that are known."""
        super().initialize(dashboards)
        self._upstream: WebSocketClientConnection | None = None
        self._pump: asyncio.Task[None] | None = None

    async def get(self, port: str, path: str) -> None:
        """Connect to the dashboard first, so that its choice of subprotocol can be told."""
        if self.current_user is None or not self.check_origin():
            raise HTTPError(403)
        found = await self._dashboards.find(port)
        wanted = self.request.headers.get("Sec-WebSocket-Protocol", "")
        request = HTTPRequest(
            self._address("ws", found, path), headers=HTTPHeaders(found.headers()),
            connect_timeout=_REPLY_S,
        )  # fmt: skip
        try:
            self._upstream = await websocket_connect(
                request, subprotocols=[word.strip() for word in wanted.split(",") if word.strip()]
            )
        except (HTTPClientError, OSError) as error:
            raise _unreachable(found, error) from error
        await WebSocketHandler.get(self, port, path)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """The one that the dashboard chose."""
        return self._upstream.selected_subprotocol if self._upstream is not None else None

    def open(self, *args: Any, **kwargs: Any) -> None:
        """The browser is there."""
        super().open(*args, **kwargs)
        self._pump = asyncio.create_task(self._to_browser())

    async def _to_browser(self) -> None:
        assert self._upstream is not None
        while (message := await self._upstream.read_message()) is not None:
            if self.ws_connection is None:
                return
            await self.write_message(message, binary=isinstance(message, bytes))
        self.close()

    async def on_message(self, message: str | bytes) -> None:
        """From the browser."""
        if self._upstream is not None:
            await self._upstream.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        """The browser has gone, or the dashboard."""
        super().on_close()
        if self._pump is not None:
            self._pump.cancel()
        if self._upstream is not None:
            self._upstream.close()


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Jupyter calls this when it starts."""
    base = server.web_app.settings["base_url"]
    shared = {"dashboards": Dashboards()}
    server.web_app.add_handlers(
        ".*$",
        [
            (url_path_join(base, "/nbray/version"), VersionHandler),
            (url_path_join(base, "/nbray/?"), NewestHandler, shared),
            (url_path_join(base, r"/nbray/(\d+)/(ws)"), SocketHandler, shared),
            (url_path_join(base, r"/nbray/(\d+)/(.*)"), PageHandler, shared),
        ],
    )
