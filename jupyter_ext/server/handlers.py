"""What the Jupyter server answers below ``/nbray/``: what dashboards say, and their sockets."""

from __future__ import annotations

import asyncio
import re
import time
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from jupyter_server.auth.decorator import allow_unauthenticated, authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import url_path_join
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError, authenticated
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketError,
    WebSocketHandler,
    websocket_connect,
)

from nbray.state.dashboard import Dashboard

from .dashboards import Dashboards, Views

AUTH_RESOURCE = "nbray"
_REPLY_S = 30.0
_PAGE = re.compile(r"(?!metrics$)[a-z-]*|trace\.json")
_ASKED = ("Accept", "Accept-Language", "If-None-Match", "If-Modified-Since")
_ANSWERED = ("Content-Type", "Cache-Control", "Etag", "Last-Modified", "Location")


class VersionHandler(JupyterHandler):
    """Tells kernels of this server, which have no login, that the extension is there."""

    @allow_unauthenticated
    def get(self) -> None:
        """The version of nbray."""
        self.finish({"nbray": version("nbray")})


class _DashboardHandler(JupyterHandler):
    """What all handlers share that lead to a dashboard."""

    auth_resource = AUTH_RESOURCE

    def initialize(self, dashboards: Dashboards, views: Views) -> None:
        """Take the dashboards that are known."""
        self._dashboards = dashboards
        self._views = views

    @property
    def content_security_policy(self) -> str:
        """The page cannot act in Jupyter's origin, whatever it is made to do."""
        host = self.request.host  # 'self' alone may mean the sandbox's origin, which has no host
        return "; ".join(
            (
                "sandbox allow-scripts", "frame-ancestors 'self'", "default-src 'none'",
                f"script-src 'self' {host}",
                f"style-src 'self' 'unsafe-inline' {host}", "img-src 'self' data: blob:",
                f"font-src 'self' data: {host}", f"connect-src ws://{host} wss://{host}",
                "base-uri 'none'", "form-action 'none'",
            )
        )  # fmt: skip

    def _target(self, path: str) -> str:
        """What the dashboard is asked for, with the query."""
        query = f"?{self.request.query}" if self.request.query else ""
        return f"/{quote(path)}{query}"

    def _page_of(self, port: str | int, path: str = "") -> str:
        page = str(url_path_join(self.base_url, AUTH_RESOURCE, str(port), "/"))
        return page + (self._target(path)[1:] if path else "")

    async def _pass_on(self, port: str, path: str) -> None:
        """Answer as the dashboard does, if it is the dashboard."""
        found = await self._dashboards.find(port)
        target = self._target(path)
        signed = found.signed("GET", target, time.time())
        asked = {
            name: self.request.headers[name] for name in _ASKED if name in self.request.headers
        }
        request = HTTPRequest(
            f"{found.base}{target}", headers={**asked, **signed}, follow_redirects=False,
            connect_timeout=_REPLY_S, request_timeout=_REPLY_S, decompress_response=False,
            ssl_options=found.trust() if found.has_tls else None,
        )  # fmt: skip
        try:
            reply = await self._dashboards.client.fetch(request, raise_error=False)
            if reply.code == 599:
                raise _unreachable(found, reply.error)
            found.check_answer(signed, reply.code, reply.headers, reply.body)
        except (HTTPClientError, OSError) as error:
            raise _unreachable(found, error) from error
        self.set_status(reply.code, reply.reason)
        for name in _ANSWERED:
            if name in reply.headers:
                self.set_header(name, reply.headers[name])
        self.set_header("Referrer-Policy", "no-referrer")
        if reply.body:
            self.write(reply.body)
        await self.finish()


def _unreachable(found: Dashboard, error: object) -> HTTPError:
    return HTTPError(502, f"The dashboard at {found.url} does not answer: {error}")


class NewestHandler(_DashboardHandler):
    """Leads to the newest cluster's dashboard."""

    @authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """Redirect there."""
        found = await self._dashboards.find("")
        self.redirect(self._page_of(found.port))


class PageHandler(_DashboardHandler):
    """Passes requests on that read."""

    @authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self, port: str, path: str) -> None:
        """Answer as the dashboard does; lead a browser to a view of its page."""
        if _PAGE.fullmatch(path) and "Authorization" not in self.request.headers:
            found = await self._dashboards.find(port)
            view = f"v/{self._views.new(found.port)}/"
            self.redirect(self._page_of(port) + view + (self._target(path)[1:] if path else ""))
            return
        await self._pass_on(port, path)


class ViewHandler(_DashboardHandler):
    """A page for those who are logged in; its scripts for whoever knows of the view."""

    @allow_unauthenticated
    async def get(self, port: str, view: str, path: str) -> None:
        """Answer as the dashboard does; an old page leads to a new one."""
        holds = self._views.holds(port, view)
        is_page = _PAGE.fullmatch(path) is not None
        if is_page and not (holds and self.current_user is not None):
            self.redirect(self._page_of(port, path))  # where a login is asked for
        elif is_page:
            await self._page(port, path)
        elif holds and path.startswith("static/"):
            await self._pass_on(port, path)
        else:
            raise HTTPError(403)

    @authorized("read", AUTH_RESOURCE)
    async def _page(self, port: str, path: str) -> None:
        await self._pass_on(port, path)


class _Socket(WebSocketMixin, WebSocketHandler, _DashboardHandler):
    """Passes the messages of a page's WebSocket on, both ways."""

    def initialize(self, dashboards: Dashboards, views: Views) -> None:
        """Take the dashboards that are known."""
        super().initialize(dashboards, views)
        self._upstream: WebSocketClientConnection | None = None
        self._pump: asyncio.Task[None] | None = None

    async def _connect(self, port: str, path: str) -> None:
        """Connect to the dashboard first, so that its choice of subprotocol can be told."""
        found = await self._dashboards.find(port)
        wanted = self.request.headers.get("Sec-WebSocket-Protocol", "")
        target = self._target(path)
        signed = found.signed("GET", target, time.time())
        request = HTTPRequest(
            f"ws{found.base.removeprefix('http')}{target}",
            headers=HTTPHeaders(signed),
            connect_timeout=_REPLY_S,
            ssl_options=found.trust() if found.has_tls else None,
        )
        try:
            self._upstream = await websocket_connect(
                request, subprotocols=[word.strip() for word in wanted.split(",") if word.strip()]
            )
            found.check_answer(signed, 101, self._upstream.headers or {}, b"")
        except (HTTPClientError, WebSocketError, OSError) as error:
            if self._upstream is not None:
                self._upstream.close()
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


class SocketHandler(_Socket):
    """The socket for those who are logged in."""

    async def get(self, port: str, path: str) -> None:
        """Connect it."""
        if self.current_user is None or not self.check_origin():
            raise HTTPError(403)
        await self._allowed(port, path)

    @authorized("read", AUTH_RESOURCE)
    async def _allowed(self, port: str, path: str) -> None:
        await self._connect(port, path)


class ViewSocketHandler(_Socket):
    """The socket of a view, whose page has no cookies and no origin."""

    @allow_unauthenticated
    async def get(self, port: str, view: str, path: str) -> None:
        """Connect it."""
        if not self._views.holds(port, view):
            raise HTTPError(403)
        await self._connect(port, path)

    def check_origin(self, origin: str | None = None) -> bool:
        """No page of another site knows a view."""
        return True


def handlers(base: str) -> list[tuple[Any, ...]]:
    """The table of handlers below ``base``."""
    shared = {"dashboards": Dashboards(), "views": Views()}
    return [
        (url_path_join(base, "/nbray/version"), VersionHandler),
        (url_path_join(base, "/nbray/?"), NewestHandler, shared),
        (url_path_join(base, r"/nbray/(\d+)/(ws)"), SocketHandler, shared),
        (url_path_join(base, r"/nbray/(\d+)/v/([^/]+)/(ws)"), ViewSocketHandler, shared),
        (url_path_join(base, r"/nbray/(\d+)/v/([^/]+)/(.*)"), ViewHandler, shared),
        (url_path_join(base, r"/nbray/(\d+)/(.*)"), PageHandler, shared),
    ]
