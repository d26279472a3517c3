"""What every answer says to browsers, and the seal on those that members' programs asked for."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable
from typing import Any

from tornado.concurrent import Future
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from nbray.state.dashboard import ANSWER_HEADER, Dashboard

LARGEST_SEALED = 32 << 20
"""Bytes of an answer that is sealed, which is in memory as a whole."""

_TOO_LARGE = b"So large an answer is given by the dashboard itself alone, or in parts."

# Pages are framed by notebooks, which have other ports of this machine. No script stands in a page;
# bars and plots have styles of their own.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'self' http://127.0.0.1:* http://localhost:* "
        "https://127.0.0.1:* https://localhost:*"
    ),
    "X-Frame-Options": "SAMEORIGIN",  # for browsers that do not know frame-ancestors
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # under "no-referrer", forms are sent with Origin: null
    "Cross-Origin-Resource-Policy": "same-site",
}


class SignedBody(HTTPMessageDelegate):
    """Passes a request on; its handler hears of the end only if the body is the signed one.

    Args:
        handler: who answers it.
        changed: who answers one whose body was changed on the way.
        digest: of the body that was signed, its SHA-256; nothing if there was none.
    """

    def __init__(
        self, handler: HTTPMessageDelegate, changed: HTTPMessageDelegate, digest: str
    ) -> None:
        self._handler = handler
        self._changed = changed
        self._digest = digest
        self._came = hashlib.sha256()
        self._is_empty = True

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """It begins."""
        return self._handler.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """A part of its body."""
        self._is_empty = self._is_empty and not chunk
        self._came.update(chunk)
        return self._handler.data_received(chunk)

    def finish(self) -> None:
        """It is whole: is it what was signed?"""
        came = "" if self._is_empty else self._came.hexdigest()
        if hmac.compare_digest(came.encode(), self._digest.encode("utf-8", "replace")):
            self._handler.finish()
            return
        self._handler.on_connection_close()
        self._changed.finish()

    def on_connection_close(self) -> None:
        """Whoever asked has gone."""
        self._handler.on_connection_close()


class Answers(HTTPConnection):
    """A connection whose answers have the headers that keep a page to itself."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write_headers(
        self, start_line: Any, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> Future[None]:
        """Begin the answer."""
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        written: Future[None] = self._inner.write_headers(start_line, headers, chunk)
        return written

    def write(self, chunk: bytes) -> Future[None]:
        """Go on with it."""
        written: Future[None] = self._inner.write(chunk)
        return written

    def finish(self) -> None:
        """End it."""
        self._inner.finish()


class Sealed(Answers):
    """A connection whose answer leaves as a whole, with what proves whose it is."""

    def __init__(self, inner: Any, dashboard: Dashboard, key: str) -> None:
        super().__init__(inner)
        self._dashboard = dashboard
        self._key = key
        self._start: ResponseStartLine | None = None
        self._headers = HTTPHeaders()
        self._body = bytearray()
        self._is_over = False

    def write_headers(
        self, start_line: Any, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> Future[None]:
        """Keep the head."""
        self._start, self._headers = start_line, headers
        return self._keep(chunk or b"")

    def write(self, chunk: bytes) -> Future[None]:
        """Keep a further part; an answer that grows too large, or has no end, is refused instead.

        Raises:
            StreamClosedError: it was, and nobody takes more.
        """
        if not self._is_over and len(self._body) + len(chunk) > LARGEST_SEALED:
            self._start = ResponseStartLine("HTTP/1.1", 413, "Request Entity Too Large")
            self._headers = HTTPHeaders({"Content-Type": "text/plain; charset=utf-8"})
            self._body[:] = _TOO_LARGE
            self.finish()
        if self._is_over:
            raise StreamClosedError
        return self._keep(chunk)

    def _keep(self, chunk: bytes) -> Future[None]:
        self._body += chunk
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def finish(self) -> None:
        """Send it, if it was not refused."""
        if self._is_over:
            return
        self._is_over = True
        assert self._start is not None
        body = bytes(self._body)
        for name, value in _HEADERS.items():
            self._headers.setdefault(name, value)
        self._headers[ANSWER_HEADER] = self._dashboard.seal(
            self._key, self._start.code, self._headers.get_all(), body
        )
        super().write_headers(self._start, self._headers, body)
        super().finish()
