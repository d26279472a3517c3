"""The asyncio side of the frame wire: how a raylet serves its node's processes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol, cast

from nbray.common.config import Config
from nbray.wire.frames import FrameDecoder, FrameError, encode_frame
from nbray.wire.handshake import HandshakeError, ServerHandshake
from nbray.wire.messages import Message

logger = logging.getLogger(__name__)


class FrameHandler(Protocol):
    """Who receives what authenticated peers send."""

    def on_message(self, conn: FrameConnection, message: Message) -> None:
        """Called once for every message, in order."""

    def on_closed(self, conn: FrameConnection, reason: str) -> None:
        """Called once when an authenticated connection has ended."""


class FrameConnection(asyncio.Protocol):
    """One accepted connection. `state` belongs to the handler."""

    def __init__(self, token: bytes, handler: FrameHandler, config: Config) -> None:
        self.peer = "a peer"
        self.state: Any = None
        self._handler = handler
        self._config = config
        self._handshake: ServerHandshake | None = ServerHandshake(token)
        self._decoder = FrameDecoder(config.max_frame_bytes)
        self._outgoing: list[Message] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._reason = "the peer closed the connection"
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = str(transport.get_extra_info("peername") or "a local process")
        assert self._handshake is not None
        self._transport.write(self._handshake.hello)
        self._deadline = self._loop.call_later(
            self._config.handshake_timeout_s, self.close, "no handshake in time"
        )

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            try:
                proof, rest = self._handshake.feed(data)
            except HandshakeError as error:
                self.close(str(error))
                return
            if rest is None:
                return
            self._handshake = None
            assert self._transport is not None and self._deadline is not None
            self._deadline.cancel()
            self._transport.write(proof)
            if not rest:
                return
            data = rest
        try:
            messages = self._decoder.feed(data)
        except FrameError as error:
            self.close(str(error))
            return
        for message in messages:
            self._handler.on_message(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None
        if self._handshake is None:
            self._handler.on_closed(self, str(exc) if exc else self._reason)

    def send(self, message: Message) -> None:
        """Queue ``message``; what one turn of the loop queues leaves in one write."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(message)

    def _flush(self) -> None:
        messages, self._outgoing = self._outgoing, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(messages))

    def close(self, reason: str) -> None:
        """End the connection and say why in the log."""
        if self._transport is not None and not self._transport.is_closing():
            logger.warning("Closed the connection of %s: %s.", self.peer, reason)
            self._reason = reason
            if self._handshake is None and self._outgoing:
                self._flush()
            self._transport.close()


async def serve_unix(path: str, token: bytes, handler: FrameHandler) -> asyncio.AbstractServer:
    """Listen on a Unix socket at ``path``; peers must prove ``token``."""
    config = Config.from_env()
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: FrameConnection(token, handler, config), path)


async def serve_tcp(
    host: str, port: int, token: bytes, handler: FrameHandler
) -> asyncio.AbstractServer:
    """Listen on TCP ``host:port`` (0: any free port); peers must prove ``token``."""
    config = Config.from_env()
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: FrameConnection(token, handler, config), host, port)
