"""Who comes in: every request is judged here, before a page, the REST API or a socket sees it.

A browser has a cookie, which the login link gave it; a program has the token as a bearer. A
cookie travels by itself, so what it allows is allowed to pages of this host only: the origin of
a WebSocket, or of any request that names one, must be the host that was asked. The routing is
the gate: a refused request never reaches a handler of the applications behind it.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import Router
from tornado.web import Application, RequestHandler

from nbray.state.dashboard import (
    LOGIN,
    SESSION,
    SESSION_S,
    check_key,
    cookie_name,
    key_expires,
    make_key,
)

_REFUSALS = {
    401: (
        "This dashboard belongs to a cluster",
        "Open it with a link that logs you in: run <code>nbray dashboard</code> in a terminal "
        "on the head node, or <code>%nbray dashboard</code> in a notebook. A link holds "
        "for ten minutes and for one browser. Programs send the cluster's token, as hexadecimal "
        "text, in the header <code>Authorization: Bearer TOKEN</code>.",
    ),
    403: (
        "This request comes from another page",
        "A page of another host has tried to use this dashboard with your login. "
        "Open the dashboard itself.",
    ),
}
_PAGE = (
    "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>nbray</title><style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui;"
    "max-width:38rem;margin:15vh auto;padding:0 1rem}}code{{background:#8883;padding:.1em .3em;"
    "border-radius:4px}}</style><h1>{title}</h1><p>{text}</p>"
)


@dataclass
class Doorkeeper:
    """Knows the keys; ``clock`` gives seconds since the epoch. Login keys open once."""

    token: bytes
    port: int
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._used: dict[str, float] = {}
        # As it stands in the token file, for those who can read it; and for any bytes.
        self._bearers = (b"Bearer " + self.token, f"Bearer {self.token.hex()}".encode())

    def log_in(self, key: str) -> str | None:
        """The cookie's value for a login key; None when it is false, late or used."""
        now = self.clock()
        self._used = {used: until for used, until in self._used.items() if until > now}
        if not check_key(self.token, LOGIN, key, now) or key in self._used:
            return None
        self._used[key] = key_expires(key)
        return make_key(self.token, SESSION, now, SESSION_S)

    def judge(self, request: HTTPServerRequest) -> int:
        """200: come in; else the status that refuses the request."""
        bearer = request.headers.get("Authorization", "").encode("utf-8", "replace")
        if any([hmac.compare_digest(bearer, known) for known in self._bearers]):
            return 200
        cookie = request.cookies.get(cookie_name(self.port))
        if cookie is None or not check_key(self.token, SESSION, cookie.value, self.clock()):
            return 401
        origin = request.headers.get("Origin")
        # A forwarder may put its own host in place of the one that was asked; no page of another
        # host can make a browser send that header along.
        hosts = {request.host.lower(), request.headers.get("X-Forwarded-Host", "").lower()}
        if origin is not None and urlsplit(origin).netloc.lower() not in hosts:
            return 403
        return 200


class _Login(RequestHandler):
    """Changes a login key into a cookie."""

    def initialize(self, doorkeeper: Doorkeeper) -> None:
        self.doorkeeper = doorkeeper

    def get(self) -> None:
        value = self.doorkeeper.log_in(self.get_query_argument("key", ""))
        if value is None:
            _refuse(self, 401)
            return
        self.set_cookie(
            cookie_name(self.doorkeeper.port), value, httponly=True, samesite="Lax",
            max_age=int(SESSION_S), secure=self.request.protocol == "https",
        )  # fmt: skip
        self.set_header("Referrer-Policy", "no-referrer")
        self.redirect("./")


class _Refusal(RequestHandler):
    """Says what to do."""

    def initialize(self, status: int) -> None:
        self.status = status

    def prepare(self) -> None:
        _refuse(self, self.status)


def _refuse(handler: RequestHandler, status: int) -> None:
    title, text = _REFUSALS[status]
    handler.set_status(status)
    if handler.request.path.startswith("/api/"):
        handler.finish({"error": title + "."})
    else:
        handler.finish(_PAGE.format(title=title, text=text))


class Gate(Router):
    """The outermost router. ``inner`` is asked only for requests that may come in."""

    def __init__(
        self, doorkeeper: Doorkeeper, inner: Callable[[HTTPServerRequest], Router]
    ) -> None:
        self._doorkeeper = doorkeeper
        self._inner = inner
        login = (r"/login", _Login, {"doorkeeper": doorkeeper})
        self._login = Application([login], log_function=log_request)
        self._refusals = {
            status: Application([(r".*", _Refusal, {"status": status})], log_function=log_request)
            for status in _REFUSALS
        }

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        """The handler of a request that may come in, or of its refusal."""
        if request.path == "/login":
            return self._login.find_handler(request, **kwargs)
        status = self._doorkeeper.judge(request)
        if status != 200:
            return self._refusals[status].find_handler(request, **kwargs)
        return self._inner(request).find_handler(request, **kwargs)


def log_request(handler: RequestHandler) -> None:
    """Requests are not logged: their URLs may hold keys, and a page asks every second."""
