"""Shortcuts of a remote driver: sockets of its own to workers of the head node, beside its tunnel.

A call that goes through the tunnel passes two processes on its way there and two on its way back,
and wakes each of them. So a connection to a worker of the head node, once it carries messages, is
led another way: the driver connects to the gateway once more, which proves that worker to be of the
cluster, hands it the socket, and is out of the way.

Nothing rests on that. A connection is a link (`nbray.wire.link`), which moves from one socket to
another and loses nothing; when a shortcut breaks, or cannot be made, the link goes through the
tunnel, which knows whether this driver lives, and another is tried, ever more seldom. Where the
tunnel was lost and is there again, shortcuts are given up with it: one that died meanwhile would be
noticed later than by a driver that waits. With TLS, or through the dashboard's port, there are
none: what is ciphered cannot be handed over, and what stands between passes on one connection.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary

from nbray.wire import tcp
from nbray.wire.connection import Connection, Home
from nbray.wire.frames import FrameError
from nbray.wire.handshake import ClientHandshake
from nbray.wire.records import Address
from nbray.wire.transport import Transport
from nbray.wire.tunnel_messages import ENDPOINT, READY, Shortcut, packed

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 60.0


class Shortcuts:
    """All shortcuts of one driver. Its methods run under the baton.

    Args:
        home: the driver's process.
        tunnel: by which the gateway knows the driver.
        gateway: the address that the agent has reached it by.
        most: so many there may be at once.
    """

    def __init__(self, home: Home, tunnel: bytes, gateway: Sequence[str | int], most: int) -> None:
        self._home = home
        self._tunnel = tunnel
        self._gateway = tuple(gateway)
        self._most = most
        self._open: dict[Connection, Transport | None] = {}
        self._tries: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()

    def opened(self, connection: Connection) -> None:
        """A connection carries messages: by way of the tunnel, it may soon be led another way."""
        if connection in self._open:
            way = self._open[connection]
            if way is None or not way.closed:
                return
            del self._open[connection]
        self._try_later(connection)

    def _try_later(self, connection: Connection) -> None:
        peer = connection.state
        if isinstance(peer, Address) and peer.node_id == self._home.identity()[1]:
            tries = self._tries.get(connection, 0)
            self._tries[connection] = tries + 1
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(tries, 16))
            self._home.reactor.call_later(pause, partial(self._begin, connection, peer.unix_path))

    def _begin(self, connection: Connection, unix_path: str) -> None:
        self._open = {one: way for one, way in self._open.items() if way is None or not way.closed}
        if connection in self._open or not connection.connected or len(self._open) >= self._most:
            return
        sock = self._dial()
        if sock is None:
            self._try_later(connection)
            return
        self._open[connection] = None
        handshake = ClientHandshake(self._home.token, lambda: ENDPOINT)
        words = packed(Shortcut(self._tunnel, unix_path))
        approach = _Approach(words, partial(self._arrived, connection))
        transport = Transport(self._home.reactor, sock, handshake, approach)
        transport.start(self._home.config.handshake_timeout_s)

    def _dial(self) -> socket.socket | None:
        """A socket that connects to the gateway; None: there is no descriptor, or no way there."""
        family = socket.AF_INET6 if ":" in str(self._gateway[0]) else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            logger.info("There is no socket for a shortcut: %s.", error)
            return None
        tcp.set_up(sock)
        if sock.connect_ex(self._gateway) in (0, errno.EINPROGRESS):
            return sock
        sock.close()
        return None

    def _arrived(self, connection: Connection, transport: Transport | None) -> None:
        """The worker has taken the socket over, or it led nowhere."""
        del self._open[connection]
        if transport is None:
            logger.info("A connection stays in the tunnel for now.")
            self._try_later(connection)
        elif connection.move(transport):
            self._open[connection] = transport
        else:
            transport.drop()

    def give_up(self) -> None:
        """Lead all connections through the tunnel again."""
        for way in list(self._open.values()):
            if way is not None:
                way.end("the tunnel was lost meanwhile")


class _Approach:
    """A socket to the gateway until the worker has it; see `nbray.wire.transport.Carried`."""

    preamble_bytes = len(READY)

    def __init__(self, words: bytes, then: partial[None]) -> None:
        self._words = words
        self._then = then

    def greeting(self) -> bytes:
        """Where it is to lead."""
        return self._words

    def opened(self, transport: Transport, preamble: bytes) -> None:
        """The worker has taken it over."""
        self._then(transport)

    def received(self, data: bytes | memoryview) -> None:
        """The worker speaks only when it was spoken to."""
        raise FrameError("bytes before the greeting")

    def lost(self, transport: Transport, reason: str, for_good: bool) -> None:
        """The gateway does not lead there, or the path was cut."""
        self._then(None)
