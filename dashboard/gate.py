"""Who comes in: every request is judged here, before a page, the REST API or a socket sees it.

A browser has a cookie, which the login link gave it; a program signs its requests, or has a key as
a bearer. A cookie travels by itself, so what it allows is allowed to pages of this host only: the
origin of a WebSocket, or of any request that names one, must be the host that was asked. The
routing is the gate: a refused request never reaches a handler of the applications behind it.
Answers leave by way of `answers.py`.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.iostream import IOStream
from tornado.routing import Router
from tornado.web import Application, RequestHandler

from nbray.state.dashboard import (
    BODY_HEADER,
    LOGIN,
    LOGIN_S,
    REQUEST,
    REQUEST_HEADER,
    Dashboard,
    api_key,
    check_key,
    key_expires,
)

from .answers import Answers, Sealed, SignedBody

SESSION_S = 12 * 3600.0
PAGE_HEADER = "Nbray-Page"
_MOST_SESSIONS = 256
_REFUSALS = {
    401: (
        "This dashboard belongs to a cluster",
        "Open it with a link that logs you in: run <code>nbray dashboard</code> in a terminal "
        "on the head node, or <code>%nbray dashboard</code> in a notebook. A link holds "
        "for ten minutes and for one browser. Programs send what <code>nbray dashboard "
        "--api-key</code> prints in the header <code>Authorization: Bearer KEY</code>.",
    ),
    403: (
        "This request comes from another page, or shows a wrong token",
        "A page of another host has tried to use this dashboard with your login, or a program "
        "sends the token of another cluster. Open the dashboard itself; programs send what "
        "stands in <code>~/.nbray/auth_token</code>.",
    ),
}
_PAGE = (
    "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>nbray</title><style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui;"
    "max-width:38rem;margin:15vh auto;padding:0 1rem}}code{{background:#8883;padding:.1em .3em;"
    "border-radius:4px}}</style><h1>{title}</h1><p>{text}</p>"
)


def cookie_name(port: int) -> str:
    """Of the dashboard at that port: cookies of one host are shared by all ports."""
    return f"nbray-dashboard-{port}"


@dataclass
class Authenticator:
    """Knows who is logged in; ``clock`` gives seconds since the epoch. Keys open once."""

    dashboard: Dashboard
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._used: dict[str, float] = {}
        self._sessions: dict[str, float] = {}
        self._links_from = 0.0
        token = self.dashboard.token
        # As it stands in the token file, for those who can read it; and for any bytes.
        self._tokens = [token, token.hex().encode()]
        self._readers = [*self._tokens, api_key(token).encode()]
        self.cookie = cookie_name(self.dashboard.port)

    def _opens(self, purpose: str, key: str) -> bool:
        """Whether a key is genuine, holds, and was never shown before."""
        now = self.clock()
        self._used = {used: until for used, until in self._used.items() if until > now}
        if key in self._used or not check_key(self.dashboard.token, purpose, key, now):
            return False
        self._used[key] = key_expires(key)
        return True

    def log_in(self, key: str) -> str | None:
        """The cookie's value for a login key; None when it is false, late, used or revoked."""
        if not self._opens(self.dashboard.purpose(LOGIN), key):
            return None
        if key_expires(key) - LOGIN_S < self._links_from:
            return None
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session = secrets.token_urlsafe(32)
        self._sessions[session] = self.clock() + SESSION_S
        return session

    def log_out(self, session: str | None) -> None:
        """End the session of a browser; None: all of them, and the links that were made."""
        if session is None:
            self._sessions.clear()
            self._links_from = self.clock()
        else:
            self._sessions.pop(session, None)

    def session_of(self, request: HTTPServerRequest) -> str | None:
        """The browser's session, if it is logged in."""
        cookie = request.cookies.get(self.cookie)
        if cookie is None or self._sessions.get(cookie.value, 0.0) <= self.clock():
            return None
        return str(cookie.value)

    def is_signed(self, request: HTTPServerRequest) -> bool:
        """Whether a member signed it, for this dashboard."""
        key = request.headers.get(REQUEST_HEADER)
        if key is None:
            return False
        body = request.headers.get(BODY_HEADER, "")
        purpose = self.dashboard.purpose(REQUEST, request.method, request.uri, body)
        return self._opens(purpose, key)

    def page_token(self, request: HTTPServerRequest) -> str:
        """What pages of this session send along when they change something, in `PAGE_HEADER`."""
        session = self.session_of(request)
        return self.token_of(session) if session is not None else ""

    def token_of(self, session: str) -> str:
        """What a login gives its pages; no page shows it, and no cookie holds it."""
        return hmac.new(self.dashboard.token, f"page {session}".encode(), "sha256").hexdigest()

    def may_change(self, request: HTTPServerRequest) -> bool:
        """Whether a request that came in may change something, not only read.

        A member's may, which has the token or is signed by it. A browser's cookie travels by
        itself, so its page has to show that it is one: by its origin, and by the page's token.
        """
        if isinstance(request.connection, Sealed) or _is_among(_shown(request), self._tokens):
            return True
        known = self.page_token(request)
        given = request.headers.get(PAGE_HEADER, "")
        origin = request.headers.get("Origin")
        return (
            bool(known)
            and origin is not None
            and hmac.compare_digest(known.encode(), given.encode("utf-8", "replace"))
        )

    def judge(self, request: HTTPServerRequest) -> int:
        """200: come in; else the status that refuses a request that is not signed."""
        shown = _shown(request)
        if _is_among(shown, self._readers):
            return 200
        if self.session_of(request) is None:
            return 403 if shown and request.path.startswith("/api/") else 401
        origin = request.headers.get("Origin")
        # A forwarder may put its own host in place of the one that was asked; no page of another
        # host can make a browser send that header along.
        hosts = {request.host.lower(), request.headers.get("X-Forwarded-Host", "").lower()} - {""}
        if origin is not None and urlsplit(origin).netloc.lower() not in hosts:
            return 403
        return 200


def _shown(request: HTTPServerRequest) -> bytes:
    """The token or key that a program shows, where Ray's clients show theirs."""
    for header in ("Authorization", "X-Ray-Authorization"):
        kind, _, key = request.headers.get(header, "").partition(" ")
        if kind.lower() == "bearer" and key:
            return key.strip().encode("utf-8", "replace")
    cookie = request.cookies.get("ray-authentication-token")
    return cookie.value.encode("utf-8", "replace") if cookie is not None else b""


def _is_among(shown: bytes, known: list[bytes]) -> bool:
    return any([hmac.compare_digest(shown, key) for key in known])


class _Login(RequestHandler):
    """Changes a login key into a cookie."""

    def initialize(self, doorkeeper: Authenticator) -> None:
        self.doorkeeper = doorkeeper

    def get(self) -> None:
        value = self.doorkeeper.log_in(self.get_query_argument("key", ""))
        place = place_of(self.get_query_argument("to", ""))
        if value is None:
            if self.doorkeeper.session_of(self.request) is None:
                _refuse(self, 401)
            else:
                # The link of a cell that is shown once more, as in a pane of JupyterLab.
                self.redirect(place)
            return
        self.set_cookie(
            self.doorkeeper.cookie, value, httponly=True, samesite="Lax",
            max_age=int(SESSION_S), secure=self.request.protocol == "https",
        )  # fmt: skip
        # Behind the #, so that it reaches this origin's script alone: whoever gets the cookie,
        # which a browser sends to every port of a host, can read and not change.
        self.redirect(f"{place}#token={self.doorkeeper.token_of(value)}")


def place_of(said: str) -> str:
    """The page of this dashboard to which a login leads; the first for what is none."""
    return said if re.fullmatch(r"[a-z-]+(\?[\w.=&%+-]*)?", said) else "./"


class _Logout(RequestHandler):
    """Ends the browser's session; for a member's program, all sessions."""

    def initialize(self, doorkeeper: Authenticator, signed: bool) -> None:
        self.doorkeeper = doorkeeper
        self.signed = signed

    def check_xsrf_cookie(self) -> None:
        """The gate has judged the origin."""

    def get(self) -> None:
        text = "<form method=post><button>Log this browser out</button></form>"
        self.finish(_PAGE.format(title="nbray", text=text))

    def post(self) -> None:
        session = self.doorkeeper.session_of(self.request)
        if self.signed or session is not None:
            self.doorkeeper.log_out(None if self.signed else session)
        self.clear_cookie(self.doorkeeper.cookie)
        self.finish(_PAGE.format(title="Logged out", text="The dashboard is closed to this login."))


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
    """The outermost router. ``inner`` is asked only for requests that may come in.

    ``came_in`` hears of the streams of those. ``unjudged`` has applications by path that ask for
    proofs of their own.
    """

    def __init__(
        self, doorkeeper: Authenticator, inner: Callable[[HTTPServerRequest], Router]
    ) -> None:
        self._doorkeeper = doorkeeper
        self._inner = inner
        self.came_in: Callable[[IOStream], None] = lambda _stream: None
        self.unjudged: Mapping[str, Router] = {}
        self._login = self._application(_Login, doorkeeper=doorkeeper)
        self._logouts = {
            signed: self._application(_Logout, doorkeeper=doorkeeper, signed=signed)
            for signed in (True, False)
        }
        self._refusals = {
            status: self._application(_Refusal, status=status) for status in _REFUSALS
        }

    @staticmethod
    def _application(handler: type[RequestHandler], **facts: Any) -> Application:
        return Application([(r".*", handler, facts)], log_function=log_request)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        """The handler of a request that may come in, or of its refusal."""
        assert request.connection is not None
        stream: IOStream = getattr(request.connection, "stream")  # noqa: B009 - of HTTP/1
        if request.path in self.unjudged:
            return self.unjudged[request.path].find_handler(request, **kwargs)
        signed = self._doorkeeper.is_signed(request)
        if signed:
            key = request.headers[REQUEST_HEADER]
            request.connection = Sealed(request.connection, self._doorkeeper.dashboard, key)
        else:
            request.connection = Answers(request.connection)
        if request.path == "/login" and not signed:
            return self._login.find_handler(request, **kwargs)
        status = 200 if signed else self._doorkeeper.judge(request)
        if status != 200:
            return self._refusals[status].find_handler(request, **kwargs)
        self.came_in(stream)
        inner = self._logouts[signed] if request.path == "/logout" else self._inner(request)
        handler = inner.find_handler(request, **kwargs)
        if signed and handler is not None:
            changed = self._refusals[403].find_handler(request, **kwargs)
            assert changed is not None
            return SignedBody(handler, changed, request.headers.get(BODY_HEADER, ""))
        return handler


def log_request(handler: RequestHandler) -> None:
    """Requests are not logged: their URLs may hold keys, and a page asks every second."""
