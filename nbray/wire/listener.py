"""A listening socket of a driver or worker: who may come in, and which link it carries on."""

from __future__ import annotations

import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Callable

from nbray.common.sparing_log import SparingLog
from nbray.wire import tcp
from nbray.wire.connection import Connection, Home
from nbray.wire.frames import FrameError
from nbray.wire.handshake import ServerHandshake
from nbray.wire.link import Answer, Opening, is_handover
from nbray.wire.messages import Message
from nbray.wire.tls import TlsSocket
from nbray.wire.transport import Transport

_log = SparingLog(logging.getLogger(__name__))

MOST_HALF_OPEN = 128
"""So many peers may be about to prove themselves; then the oldest make way."""

_PAUSE_S = 0.5


class Listener:
    """Accepts authenticated peers on one socket."""

    preamble_bytes = Opening.SIZE

    def __init__(
        self,
        home: Home,
        links: dict[bytes, Connection],
        sock: socket.socket,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
        on_broken: Callable[[Connection], None] | None,
    ) -> None:
        self._home = home
        self._links = links
        self._reactor = home.reactor
        self._sock = sock
        self._callbacks = (on_message, on_closed, on_broken)
        self._half_open: OrderedDict[Transport, float] = OrderedDict()  # with peers' patience
        sock.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._reactor.watch(self._sock.fileno(), self._accept, self._sock.close)

    def _accept(self, _events: int) -> None:
        try:
            peer, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has gone again
        except OSError as error:
            # Mostly no descriptor is left. The socket stays readable, so it is left alone a while.
            _log.warning("A connection could not be accepted: %s.", error)
            self._reactor.forget(self._sock.fileno())
            self._reactor.call_later(_PAUSE_S, self._listen)
            return
        peer.setblocking(False)
        carrier: socket.socket | TlsSocket = peer
        binding: Callable[[], bytes] = bytes
        if peer.family != socket.AF_UNIX:
            tcp.set_up(peer)
            if self._home.tls is not None:
                stream = self._home.tls.accepting()
                carrier = TlsSocket(peer, stream)
                binding = stream.binding
        handshake = None
        if not self._home.ways.trusted:
            handshake = ServerHandshake(self._home.token, peer.getsockname(), binding)
        self._begin(Transport(self._reactor, carrier, handshake, self), 0.0)

    def _begin(self, transport: Transport, patience_s: float) -> None:
        if len(self._half_open) >= MOST_HALF_OPEN:
            oldest, _ = self._half_open.popitem(last=False)
            _log.info("Closed a connection: too many have no handshake yet.")
            oldest.drop()
        self._half_open[transport] = patience_s
        transport.start(self._home.config.handshake_timeout_s)

    def greeting(self) -> bytes:
        """The accepting side speaks in its answer."""
        return b""

    def opened(self, transport: Transport, preamble: bytes) -> None:
        """A peer has proved the token, and says which link it is about."""
        patience_s = self._half_open.pop(transport, 0.0)
        opening = Opening.unpack(preamble)
        if is_handover(opening):
            self._handed_over(transport, opening.received)
            return
        connection = self._links.get(opening.link_id)
        if connection is None and opening.known:
            transport.write([Answer(False).pack()])
            transport.flush()
            transport.drop()
            return
        if connection is None:
            connection = Connection(self._home, *self._callbacks, link_id=opening.link_id)
            connection.caller = (opening.worker_id, opening.node_id)
            self._links[opening.link_id] = connection
        connection.patience_s = max(connection.patience_s, patience_s)
        connection.accept(transport, opening)

    def _handed_over(self, giver: Transport, patience_s: float) -> None:
        """A gateway hands over the socket of a peer, which has proved the token to it.

        The gateway keeps its own connection as long as it stands for that peer.
        """
        descriptor, giver.handed = giver.handed, -1
        sock = _socket_of(descriptor)
        giver.write([Answer(sock is not None).pack()])
        giver.flush()
        if sock is None or giver.closed:
            giver.drop()
            return
        taken = Transport(self._reactor, sock, None, self)
        taken.giver = giver
        giver.carried = _Giver(taken)
        self._begin(taken, patience_s)

    def received(self, data: bytes | memoryview) -> None:
        """Nothing comes here: an open transport carries a connection."""
        raise FrameError("bytes of no connection")

    def lost(self, transport: Transport, reason: str, for_good: bool) -> None:
        """A peer went before it had proved itself."""
        self._half_open.pop(transport, None)


class _Giver:
    """What a connection carries over which another one was handed: the life of that."""

    preamble_bytes = 0

    def __init__(self, taken: Transport) -> None:
        self._taken = taken

    def greeting(self) -> bytes:
        """There is nothing to say."""
        return b""

    def opened(self, transport: Transport, preamble: bytes) -> None:
        """It is open already."""

    def received(self, data: bytes | memoryview) -> None:
        """Nothing more comes."""
        raise FrameError("bytes behind what was handed over")

    def lost(self, transport: Transport, reason: str, for_good: bool) -> None:
        """Nobody stands for the peer any more."""
        self._taken.end("the gateway ended it")


def _socket_of(descriptor: int) -> socket.socket | None:
    """The connected socket that it is, if it is one."""
    if descriptor < 0:
        return None
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        return None
    sock.setblocking(False)
    return sock
