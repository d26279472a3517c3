"""A connection of a driver or worker: a link, and the socket that carries it at the moment."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from nbray.common.config import Config
from nbray.wire.frames import FrameError
from nbray.wire.handshake import ClientHandshake
from nbray.wire.link import Answer, Link, Opening
from nbray.wire.messages import Message
from nbray.wire.reactor import Reactor
from nbray.wire.tls import Tls, TlsSocket
from nbray.wire.transport import Transport

logger = logging.getLogger(__name__)

Dial = Callable[[], tuple[socket.socket | TlsSocket, int]]


class Ways(Protocol):
    """How the sockets of a process are made.

    Attributes:
        trusted: who stands between proves the token to the peers, and has them prove it.
        patience_s: so much longer than on a direct way a handshake may take.
    """

    trusted: bool
    patience_s: float

    def dial(self, unix_path: str, host: str, port: int) -> tuple[socket.socket | TlsSocket, int]:
        """A socket that connects to that place, and the error number if it cannot; never waits."""

    def dial_now(self, unix_path: str, timeout_s: float) -> socket.socket:
        """A connected socket to a server of this node.

        Raises:
            OSError: nobody listens there.
        """

    def opened(self, connection: Connection) -> None:
        """A connection that was dialled carries messages: it may be led a better way (`move`)."""


class Home(Protocol):
    """The process that a connection belongs to: the values that all its connections share.

    Attributes:
        token: the cluster's secret, which either side proves.
        tls: what it shows to other machines; None without TLS.
        identity: the ids of this process and of its node, for those that it connects to.
        ways: how its sockets are made.
    """

    reactor: Reactor
    token: bytes
    tls: Tls | None
    config: Config
    ways: Ways
    identity: Callable[[], tuple[bytes, bytes]]

    def forget(self, link_id: bytes) -> None:
        """That link has ended: a peer that asks for it is refused."""


class Connection:
    """Messages to and from one process.

    What is sent before the peer has proved the token, or while there is no socket, waits. Only the
    holder of the baton may use it.

    Attributes:
        on_message: called with each message.
        on_closed: called once, at the end.
        on_broken: called when the socket was lost or could not be made; whoever is called has to
            see to it that the connection is made anew (`dial`), or closed. None: a lost socket is
            the end.
        attempts: how often it was tried to make it anew since messages flowed last; counted by
            whoever does.
        peer_ended: whether it was closed because the process behind it has ended.
        caller: the ids of the process that connected and of its node; empty where this side did.
        state: belongs to whoever uses the connection.
        known_functions: the functions that the peer has been sent.
        patience_s: so long the peer may be away, if that is more than of others.
    """

    patience_s = 0.0
    preamble_bytes = Answer.SIZE

    def __init__(
        self,
        home: Home,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
        on_broken: Callable[[Connection], None] | None = None,
        dial: Dial | None = None,
        link_id: bytes = b"",
    ) -> None:
        self._home = home
        self._dirty = home.reactor.dirty
        self.on_message = on_message
        self.on_closed = on_closed
        self.on_broken = on_broken
        self.closed = False
        self.reason = ""
        self.attempts = 0
        self.peer_ended = False
        self.caller = (b"", b"")
        self.state: Any = None
        self.known_functions: set[bytes] = set()
        self.link_id = link_id or os.urandom(16)
        self._dial = dial
        self._link = Link(home.config.max_frame_bytes)
        self._transport: Transport | None = None
        self._known = bool(link_id)
        self._is_dirty = False

    @property
    def established(self) -> bool:
        """Whether the peer has ever proved that it belongs to the cluster."""
        return self._known

    @property
    def connected(self) -> bool:
        """Whether there is a socket over which messages flow."""
        return self._transport is not None and self._transport.is_open

    @property
    def dials(self) -> bool:
        """Whether it is this side that makes the connection anew."""
        return self._dial is not None

    @property
    def congested(self) -> bool:
        """Whether the peer has not yet read all that was sent."""
        return self._transport is None or self._transport.congested

    def send(self, message: Message) -> None:
        """Queue ``message``; it leaves with the others at the end of this turn.

        Raises:
            UnsendableError: it cannot travel; nothing else is touched.
        """
        if self.closed:
            return
        self._link.put(message)
        if not self._is_dirty:
            self._is_dirty = True
            self._dirty.append(self)

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""
        self._is_dirty = False
        transport = self._transport
        if transport is None or not transport.is_open or self.closed:
            return
        try:
            transport.send(self._link.take())
        except BaseException:
            # What was taken and not written is sent again over another socket.
            transport.end("a write was torn apart")
            raise

    # --- its sockets --------------------

    def dial(self) -> None:
        """Connect to the peer; what comes of it shows itself later."""
        if self.closed or self._transport is not None or self._dial is None:
            return
        try:
            sock, failed = self._dial()
        except OSError as error:  # no descriptor is left
            self._broke_soon(str(error))
            return
        if failed:
            sock.close()
            self._broke_soon(os.strerror(failed))
            return
        self._transport = Transport(self._home.reactor, sock, self._client(sock), self)
        home = self._home
        self._transport.start(home.config.handshake_timeout_s + home.ways.patience_s)

    def move(self, transport: Transport) -> bool:
        """Go on over another open socket to the same peer, which waits for this side's greeting.

        Should it lead nowhere, the connection is made anew as it was made at first. False: there is
        nothing to go on with.
        """
        if self.closed or self._transport is None or not self._transport.is_open:
            return False
        self._transport.drop()
        self._transport = transport
        transport.hand_to(self)
        return True

    def use(self, sock: socket.socket) -> None:
        """Go through the handshake on a connected ``sock`` that blocks; then messages flow.

        Raises:
            OSError: the peer went. HandshakeError: it is not of this cluster.
        """
        transport = Transport(self._home.reactor, sock, self._client(sock), self)
        transport.shake_hands_now()
        sock.setblocking(False)
        self._home.reactor.watch(sock.fileno(), transport.handle_events, sock.close)

    def _client(self, sock: socket.socket | TlsSocket) -> ClientHandshake | None:
        if self._home.ways.trusted:
            return None
        binding = sock.binding if isinstance(sock, TlsSocket) else bytes
        return ClientHandshake(self._home.token, sock.getpeername, binding)

    def accept(self, transport: Transport, opening: Opening) -> None:
        """The peer has connected, anew or for the first time: go on over its socket.

        Raises:
            FrameError: it cannot have received what it says.
        """
        missing = self._link.resume(opening.received)
        if self._transport is not None:
            self._transport.drop()  # of its end, this side had not heard
        transport.carried = self
        self._transport = transport
        self.attempts = 0
        transport.write([Answer(True, self._link.received).pack(), *missing])
        transport.flush()

    # --- called by the socket --------------------

    def greeting(self) -> bytes:
        """What this link is, for the accepting side."""
        return Opening(
            self.link_id, self._known, self._link.received, *self._home.identity()
        ).pack()

    def opened(self, transport: Transport, preamble: bytes) -> None:
        """The peer has proved the token, and answered for the link."""
        answer = Answer.unpack(preamble)
        if not answer.accepted:
            raise FrameError("the peer has given this connection up")
        self._known = True
        self._transport = transport
        self.attempts = 0
        transport.write(self._link.resume(answer.received))
        self._home.ways.opened(self)

    def received(self, data: bytes | memoryview) -> None:
        """Bytes of the link have come."""
        messages = self._link.feed(data)
        acknowledgement = self._link.acknowledgement()
        if acknowledgement and self._transport is not None:
            self._transport.write([acknowledgement])
            self._transport.flush()
        for message in messages:
            try:
                self.on_message(self, message)
            except Exception:
                # One message's failure must not lose those behind it.
                logger.exception("The handler of a %s failed.", type(message).__name__)

    def lost(self, transport: Transport, reason: str, for_good: bool) -> None:
        """The socket has ended."""
        if self._transport is transport:
            self._transport = None
            self._broke(reason, for_good)

    def _broke_soon(self, reason: str) -> None:
        self._home.reactor.inbox.append(lambda: self._broke(reason, for_good=False))

    def _broke(self, reason: str, for_good: bool) -> None:
        if self.closed:
            return
        self.reason = reason
        if self.on_broken is None or for_good:
            self.close(reason)
        else:
            self.on_broken(self)

    def close(self, reason: str) -> None:
        """End the connection for good; its `on_closed` is called once."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        if self._transport is not None:
            self._transport.drop()
            self._transport = None
        self._home.forget(self.link_id)
        self.on_closed(self)
