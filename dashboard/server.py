"""The HTTP server: strangers have few places and little time, and cannot take those of others."""

from __future__ import annotations

import logging
import ssl
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.routing import Router

from nbray.common.config import Config
from nbray.common.sparing_log import SparingLog

MOST_STRANGERS = 128
_LARGEST_REQUEST = 1 << 16

_log = SparingLog(logging.getLogger(__name__))


class BoundedServer(HTTPServer):
    """Of connections over which nobody has come in, the oldest make way for new ones."""

    def initialize(  # type: ignore[override]
        self, judge: Router, tls: ssl.SSLContext | None = None
    ) -> None:
        """Bound what a request may take before it is judged."""
        limit = Config.from_env().handshake_timeout_s
        self._strangers: dict[IOStream, None] = {}
        super().initialize(
            judge, max_body_size=_LARGEST_REQUEST, max_buffer_size=1 << 20,
            idle_connection_timeout=limit, body_timeout=limit, ssl_options=tls,
        )  # fmt: skip

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Take a connection."""
        if len(self._strangers) >= MOST_STRANGERS:
            self._strangers = {known: None for known in self._strangers if not known.closed()}
        if len(self._strangers) >= MOST_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.close()
            _log.warning("Closed a connection: too many have not shown who they are.")
        self._strangers[stream] = None
        super().handle_stream(stream, address)

    def came_in(self, stream: IOStream) -> None:
        """Somebody came in over it."""
        self._strangers.pop(stream, None)
