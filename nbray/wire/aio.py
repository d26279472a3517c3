"""The asyncio side of the frame wire: how a raylet serves processes of its node and of others."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, cast

from nbray.common.config import Config
from nbray.common.sparing_log import SparingLog
from nbray.wire import tcp
from nbray.wire.accepting import Accepting, accept_unix
from nbray.wire.bulk import LINK_ID, BulkSocket
from nbray.wire.frames import FrameError
from nbray.wire.handshake import HandshakeError, ServerHandshake
from nbray.wire.link import Answer, Link, Opening
from nbray.wire.listener import MOST_HALF_OPEN
from nbray.wire.messages import Message
from nbray.wire.tls import Tls, TlsSocket, TlsStream

logger = logging.getLogger(__name__)
_strangers = SparingLog(logger)


class FrameHandler(Protocol):
    """Who receives what authenticated peers send."""

    def on_message(self, conn: FrameConnection, message: Message) -> None:
        """Called once for every message, in order."""

    def on_broken(self, conn: FrameConnection) -> None:
        """Called when the socket of a connection from another machine was lost.

        The peer makes the connection anew, if it lives: the handler has to find that out, and to
        close the connection if it does not.
        """

    def on_closed(self, conn: FrameConnection, reason: str) -> None:
        """Called once when an authenticated connection has ended for good."""


class FrameServer:
    """What the connections of one listening socket share."""

    def __init__(
        self, token: bytes, handler: FrameHandler, config: Config, resumable: bool,
        on_bulk: Callable[[BulkSocket], None] | None = None, tls: Tls | None = None,
    ) -> None:  # fmt: skip
        self.token = token
        self.handler = handler
        self.config = config
        self.resumable = resumable
        self.on_bulk = on_bulk
        self.tls = tls
        self.links: dict[bytes, FrameConnection] = {}
        self._half_open: OrderedDict[_Socket, None] = OrderedDict()

    def came(self, sock: _Socket) -> None:
        """A peer has connected; with too many that have not proved themselves the oldest goes.

        On a Unix socket all are of this user, and as many as waited may come in one turn.
        """
        if len(self._half_open) >= (MOST_HALF_OPEN if self.resumable else tcp.BACKLOG):
            oldest, _ = self._half_open.popitem(last=False)
            oldest.end("too many have no handshake yet")
        self._half_open[sock] = None

    def settled(self, sock: _Socket) -> None:
        """That peer has proved itself, or has gone."""
        self._half_open.pop(sock, None)

    def opened(self, sock: _Socket, opening: Opening) -> FrameConnection | None:
        """A peer says which link it is about; None when that was given up here."""
        connection = self.links.get(opening.link_id)
        if connection is None and not opening.known:
            connection = FrameConnection(self, opening, sock.peer)
            self.links[opening.link_id] = connection
        return connection


class FrameConnection:
    """Messages to and from one process, over whatever socket carries them at the moment.

    Attributes:
        peer: the address that it connected from.
        worker_id: the process, if it came from another one's node and has an id.
        node_id: the node of that process.
        connected: whether there is a socket.
        state: belongs to the handler.
    """

    def __init__(self, server: FrameServer, opening: Opening, peer: str) -> None:
        self.peer = peer
        self.worker_id = opening.worker_id
        self.node_id = opening.node_id
        self.state: Any = None
        self.closed = False
        self._server = server
        self._link_id = opening.link_id
        self._link = Link(server.config.max_frame_bytes)
        self._sock: _Socket | None = None
        self._loop = asyncio.get_running_loop()
        self._is_dirty = False

    @property
    def connected(self) -> bool:
        """Whether there is a socket at the moment."""
        return self._sock is not None

    def accept(self, sock: _Socket, opening: Opening) -> None:
        """Go on over that socket.

        Raises:
            FrameError: the peer cannot have received what it says.
        """
        missing = self._link.resume(opening.received)
        if self._sock is not None:
            self._sock.drop()
        self._sock = sock
        sock.write(b"".join([Answer(True, self._link.received).pack(), *missing]))

    def received(self, data: bytes) -> None:
        """Bytes of the link have come.

        Raises:
            FrameError: the peer broke the protocol.
        """
        messages = self._link.feed(data)
        acknowledgement = self._link.acknowledgement()
        if acknowledgement and self._sock is not None:
            self._sock.write(acknowledgement)
        for message in messages:
            self._server.handler.on_message(self, message)

    def send(self, message: Message) -> None:
        """Queue ``message``; what one turn of the loop queues leaves in one write.

        Raises:
            UnsendableError: it cannot travel; nothing else is touched.
        """
        if self.closed:
            return
        self._link.put(message)
        if not self._is_dirty:
            self._is_dirty = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_dirty = False
        if self._sock is not None:
            frames = self._link.take()
            if frames:
                self._sock.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def lost(self, sock: _Socket, reason: str, for_good: bool) -> None:
        """The socket has ended."""
        if sock is not self._sock:
            return
        self._sock = None
        if for_good or not self._server.resumable:
            self._end(reason)
        elif not self.closed:
            self._server.handler.on_broken(self)

    def close(self, reason: str) -> None:
        """End the connection for good and say why in the log."""
        if self.closed:
            return
        logger.warning("Closed the connection of %s: %s.", self.peer, reason)
        self._flush()
        if self._sock is not None:
            self._sock.drop()
            self._sock = None
        # Soon: whoever closes it may be in the middle of handling its message.
        self._loop.call_soon(self._end, reason)

    def _end(self, reason: str) -> None:
        if not self.closed:
            self.closed = True
            self._server.links.pop(self._link_id, None)
            self._server.handler.on_closed(self, reason)


class _Socket(asyncio.Protocol):
    """One accepted socket: its handshake, and then the connection that it carries."""

    def __init__(self, server: FrameServer) -> None:
        self.peer = "a peer"
        self._server = server
        self._tls: TlsStream | None = None if server.tls is None else server.tls.accepting()
        self._handshake: ServerHandshake | None = None
        self._opening = b""
        self._connection: FrameConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._server.resumable:
            tcp.set_up(transport.get_extra_info("socket"))
        self.peer = str(transport.get_extra_info("peername") or "a local process")
        place = transport.get_extra_info("sockname")
        binding = bytes if self._tls is None else self._tls.binding
        self._handshake = ServerHandshake(self._server.token, place, binding)
        self.write(self._handshake.hello)
        self._deadline = asyncio.get_running_loop().call_later(
            self._server.config.handshake_timeout_s, self.end, "no handshake in time"
        )
        self._server.came(self)

    def data_received(self, data: bytes) -> None:
        try:
            if self._tls is not None:
                data = self._decrypted(self._tls, data)
            if self._connection is None:
                data = self._take(data)
            if data and self._connection is not None:
                self._connection.received(data)
        except (HandshakeError, FrameError) as error:
            self.end(str(error))

    def _decrypted(self, tls: TlsStream, data: bytes) -> bytes:
        try:
            tls.feed(data)
            return tls.read()
        finally:  # also what the peer is to be told of the reason
            self._send(tls.take())

    def _take(self, data: bytes) -> bytes:
        """Take a part of the handshake or of the opening; what is left over."""
        if self._handshake is not None:
            proof, rest = self._handshake.feed(data)
            if rest is None:
                return b""
            self._handshake = None
            self.write(proof)
            data = rest
        self._opening += data
        if len(self._opening) < Opening.SIZE:
            return b""
        opening = Opening.unpack(self._opening[: Opening.SIZE])
        rest = self._opening[Opening.SIZE :]
        self._settle()
        if opening.link_id == LINK_ID and self._server.on_bulk is not None:
            self._hand_over(self._server.on_bulk, rest)
            return b""
        connection = self._server.opened(self, opening)
        if connection is None:
            self.write(Answer(False).pack())
            self.drop()
            return b""
        connection.accept(self, opening)
        self._connection = connection
        return rest

    def _hand_over(self, to: Callable[[BulkSocket], None], rest: bytes) -> None:
        """The peer wants objects: its socket goes to those who send them."""
        assert self._transport is not None
        if rest:
            raise FrameError("a request before the answer")
        try:
            descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        except OSError as error:  # none is left
            self.end(f"its socket cannot be handed over: {error}")
            return
        sock = socket.socket(fileno=descriptor)
        self._transport.abort()  # ends its own descriptor, and not the connection
        sock.setblocking(True)
        carrier = sock if self._tls is None else TlsSocket(sock, self._tls)
        carrier.sendall(Answer(True).pack())
        to(carrier)

    def _settle(self) -> None:
        self._server.settled(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def write(self, data: bytes | bytearray) -> None:
        """Send bytes."""
        if self._tls is None:
            self._send(data)
        else:
            self._tls.write(data)
            self._send(self._tls.take())

    def _send(self, data: bytes | bytearray) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        self._transport = None
        if self._connection is not None:
            reason = str(exc) if exc else "the peer closed the connection"
            self._connection.lost(self, reason, for_good=False)

    def drop(self) -> None:
        """End the socket after what was written; its connection is not told."""
        self._settle()
        self._connection = None
        if self._transport is not None:
            self._transport.close()

    def end(self, reason: str) -> None:
        """End a socket whose peer broke the protocol, and its connection with it."""
        connection = self._connection
        _strangers.warning("Closed the connection of %s: %s.", self.peer, reason)
        self.drop()
        if connection is not None:
            connection.lost(self, reason, for_good=True)


def serve_unix(path: str, token: bytes, handler: FrameHandler) -> Accepting:
    """Listen on a Unix socket at ``path``; peers must prove ``token``.

    Nothing can cut such a connection but the end of one of its processes.
    """
    server = FrameServer(token, handler, Config.from_env(), resumable=False)
    return accept_unix(path, lambda: _Socket(server))


def serve_tcp(
    host: str, port: int, token: bytes, handler: FrameHandler,
    on_bulk: Callable[[BulkSocket], None], tls: Tls | None,
) -> Accepting:  # fmt: skip
    """Listen on TCP ``host:port`` (0: any free port); peers must prove ``token``.

    ``on_bulk`` is given the sockets on which other raylets ask for objects.
    """
    server = FrameServer(token, handler, Config.from_env(), True, on_bulk, tls)
    return Accepting(tcp.listen(host, port, port), lambda: _Socket(server))
