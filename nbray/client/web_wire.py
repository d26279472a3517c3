"""The connection of an agent by way of the dashboard: a WebSocket that carries the same bytes."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    websocket_connect,
)

HEADERS = "NBRAY_CLIENT_HEADERS"
"""A variable: headers that a proxy on the way asks for, as a JSON object."""

PATH = "/api/client"
_MOST_UNSENT = 512 << 10
_LARGEST = 1 << 20
_NO_WEBSOCKET = (WebSocketError, AssertionError, LookupError, ValueError)
"""What a client of tornado makes of an answer that is a page, or half of what it should be."""


class Taker(Protocol):
    """Who uses the connection, as a protocol of asyncio is told."""

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""

    def pause_writing(self) -> None:
        """It takes no more at the moment."""

    def resume_writing(self) -> None:
        """It does again."""

    def connection_lost(self, error: Exception | None) -> None:
        """It has ended."""


class WebWire:
    """A WebSocket as a carrier writes to it."""

    def __init__(self, connection: WebSocketClientConnection, taker: Taker) -> None:
        self._connection = connection
        self._taker = taker
        self._unsent = 0
        self._full = False

    def write(self, parts: list[bytes]) -> None:
        """Queue bytes."""
        data = b"".join(parts)
        try:
            sent = asyncio.ensure_future(self._connection.write_message(data, binary=True))
        except WebSocketClosedError:
            return  # the taker hears of it
        self._unsent += len(data)
        if self._unsent > _MOST_UNSENT and not self._full:
            self._full = True
            self._taker.pause_writing()
        sent.add_done_callback(lambda done: self._sent(done, len(data)))

    def _sent(self, done: asyncio.Future[None], size: int) -> None:
        if not done.cancelled():
            done.exception()  # its reason shows in the end of the connection
        self._unsent -= size
        if self._full and 2 * self._unsent <= _MOST_UNSENT:
            self._full = False
            self._taker.resume_writing()

    def close(self) -> None:
        """End it."""
        self._connection.close()


async def connect(url: str, taker: Taker, trusted: Sequence[ssl.SSLContext]) -> WebWire:
    """Connect to the dashboard at ``url``, which may have a path and a query.

    Args:
        url: of it.
        taker: is given what comes.
        trusted: with HTTPS, whose certificates are taken; of several the first that takes it.

    Raises:
        OSError: there is none, or it has no gateway.
    """

    def heard(message: str | bytes | None) -> None:
        if message is None:
            taker.connection_lost(None)
        elif isinstance(message, bytes):
            taker.data_received(message)

    for trust in trusted:
        request = HTTPRequest(
            _socket_url(url), headers=_headers(), ssl_options=trust, follow_redirects=False
        )
        try:
            connection = await websocket_connect(
                request, on_message_callback=heard, max_message_size=_LARGEST
            )
        except ssl.SSLCertVerificationError as error:
            refused = error
        except HTTPClientError as error:
            raise OSError(f"{url} answers {error.code} {error.message}") from error
        except _NO_WEBSOCKET as error:
            raise OSError(
                f"{url} answers, and leads to no dashboard: what stands between may ask for a "
                f"login, or be starting ({HEADERS} has headers for it)"
            ) from error
        else:
            return WebWire(connection, taker)
    raise OSError(
        f"the certificate at {url} is refused ({refused.verify_message}): with NBRAY_USE_TLS=1, "
        "and NBRAY_TLS_CA_CERT if the cluster has an authority, that of its dashboard is taken"
    ) from refused


def _socket_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}[parts.scheme]
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, parts.query, ""))


def _headers() -> dict[str, str]:
    given = json.loads(os.environ.get(HEADERS) or "{}")
    return {str(name): str(value) for name, value in given.items()}
