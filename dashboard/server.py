"""The HTTP server: strangers have few places and little time, and cannot take those of others."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream
from tornado.routing import Router

from nbray.common.config import Config
from nbray.common.sparing_log import SparingLog

MOST_STRANGERS = 128
_LARGEST_REQUEST = 1 << 16
_PAUSE_S = 1.0

_log = SparingLog(logging.getLogger(__name__))


class PatientListener(socket.socket):
    """Leaves who comes in the kernel's queue for a second when no descriptor is left.

    Tornado would look again at once, for ever, and log each look.
    """

    def accept(self) -> tuple[socket.socket, Any]:
        """Who came first.

        Raises:
            BlockingIOError: nobody is there, or can be taken.
        """
        try:
            return super().accept()
        except (BlockingIOError, ConnectionAbortedError):
            raise
        except OSError as error:
            _log.warning("A connection could not be accepted: %s.", error)
            loop = IOLoop.current()
            loop.update_handler(self, 0)
            loop.call_later(_PAUSE_S, self._go_on, loop)
            raise BlockingIOError from error

    def _go_on(self, loop: IOLoop) -> None:
        if self.fileno() >= 0:
            loop.update_handler(self, IOLoop.READ)


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
