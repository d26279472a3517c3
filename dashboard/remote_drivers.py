"""The tunnel of a remote driver as a WebSocket: `/api/client` passes its bytes to the gateway.

So a driver comes in by whatever leads to the dashboard: a Jupyter proxy, an ingress, a forwarded
port. Nothing is judged here. Who connects proves the token to the gateway, which speaks first and
bounds how many strangers there are and how long they stay; until it has answered the proof, the
connection is one of those that make way for new ones here, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tornado.iostream import IOStream
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from nbray.common.presence import Presence

logger = logging.getLogger(__name__)

PATH = "/api/client"
_PART = 256 << 10
_LARGEST = 1 << 20


class RemoteDrivers:
    """The application of `PATH`, and the drivers that have come by it.

    The gateway of a head that was killed tells them so, by way of this process.

    Args:
        path: the gateway's socket.
        came_in: is told of those who proved the token.

    Attributes:
        open: the connections.
    """

    def __init__(self, path: str, came_in: Callable[[IOStream], None]) -> None:
        self.open = Presence()
        self.application = Application(
            [(PATH, _Tunnel, {"path": path, "came_in": came_in, "open_ones": self.open})],
            log_function=lambda _handler: None, websocket_max_message_size=_LARGEST,
        )  # fmt: skip


class _Tunnel(WebSocketHandler):
    """One connection of a remote driver."""

    def initialize(
        self, path: str, came_in: Callable[[IOStream], None], open_ones: Presence
    ) -> None:
        """See `RemoteDrivers`."""
        self._path = path
        self._came_in = came_in
        self._open_ones = open_ones
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Connect to the gateway before the WebSocket is opened."""
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._path, limit=_PART)
        except FileNotFoundError:
            self.set_status(404)
            await self.finish({"error": "This cluster takes no drivers of other machines."})
            return
        except OSError as error:
            self.set_status(502)
            await self.finish({"error": f"The gateway of remote drivers does not answer: {error}"})
            return
        self._reader = reader

    def open(self, *_args: str, **_kwargs: str) -> None:
        """The WebSocket is there."""
        self._open_ones.came(self)
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        said = 0
        try:
            while data := await self._reader.read(_PART):
                said += 1
                if said == 2:  # the first is its hello, and the second follows a proof
                    stream = getattr(self.ws_connection, "stream", None)
                    if stream is not None:
                        self._came_in(stream)
                await self.write_message(data, binary=True)
        except (OSError, WebSocketClosedError) as error:
            logger.info("A remote driver's connection has ended: %s", error)
        self.close()

    async def on_message(self, message: str | bytes) -> None:
        """Bytes of the driver; the next are read when the gateway has taken these."""
        if isinstance(message, str) or self._writer is None:
            self.close()
            return
        try:
            self._writer.write(message)
            await self._writer.drain()
        except OSError:
            self.close()

    def on_close(self) -> None:
        """The driver's side has gone."""
        self._open_ones.went(self)
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()

    def on_finish(self) -> None:
        """The request is answered; of one that opened no WebSocket, nothing more comes."""
        if self._writer is not None and self.get_status() != 101:
            self._writer.close()
