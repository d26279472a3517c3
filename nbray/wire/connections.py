"""The connections of a driver or worker: made, accepted, and found again by their links."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from functools import partial

from nbray.common.addresses import socket_address
from nbray.common.config import Config
from nbray.wire import tcp
from nbray.wire.connection import Connection, Ways
from nbray.wire.listener import Listener
from nbray.wire.messages import Message
from nbray.wire.reactor import Reactor
from nbray.wire.tls import Tls, TlsSocket

_AGAIN_S = 0.02


class Connections:
    """All connections of one process; see `nbray.wire.connection.Home` for the attributes."""

    def __init__(
        self, reactor: Reactor, token: bytes, config: Config, ways: Ways | None = None,
        tls: Tls | None = None,
    ) -> None:  # fmt: skip
        self.reactor = reactor
        self.token = token
        self.tls = tls
        self.config = config
        self.ways: Ways = ways or Direct(tls)
        self.identity: Callable[[], tuple[bytes, bytes]] = lambda: (b"", b"")
        self._links: dict[bytes, Connection] = {}

    def forget(self, link_id: bytes) -> None:
        """That link has ended: a peer that asks for it is refused."""
        self._links.pop(link_id, None)

    def listen(
        self,
        sock: socket.socket,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
        on_broken: Callable[[Connection], None],
    ) -> None:
        """Accept authenticated connections on the listening ``sock``."""
        Listener(self, self._links, sock, on_message, on_closed, on_broken)

    def connect(
        self,
        unix_path: str,
        host: str,
        port: int,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
        on_broken: Callable[[Connection], None] | None = None,
    ) -> Connection:
        """Connect by the Unix socket when ``unix_path`` is given, else by TCP; never waits.

        Two processes may connect to each other at the same moment, so neither may wait for the
        other's handshake. When nobody is there, the connection is broken soon, and closed without
        an ``on_broken`` that makes it anew.
        """
        dial = partial(self.ways.dial, unix_path, host, port)
        connection = Connection(self, on_message, on_closed, on_broken, dial)
        connection.dial()
        return connection

    def connect_now(
        self,
        unix_path: str,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
    ) -> Connection:
        """Connect to a server of this machine and wait for its handshake, before `start`.

        Its end is the server's end: nothing can cut a connection within one machine.

        Raises:
            OSError: nobody listens there.
            HandshakeError: one side has a wrong token or version.
        """
        sock = self.ways.dial_now(unix_path, self.config.start_timeout_s)
        connection = Connection(self, on_message, on_closed)
        try:
            connection.use(sock)
        except BaseException:
            sock.close()
            raise
        return connection


class Direct:
    """The ways of a process on a machine of the cluster: see `nbray.wire.connection.Ways`."""

    trusted = False
    patience_s = 0.0

    def __init__(self, tls: Tls | None = None) -> None:
        self._tls = tls

    def dial(self, unix_path: str, host: str, port: int) -> tuple[socket.socket | TlsSocket, int]:
        """A socket that connects to that place, and the error number if it cannot."""
        if unix_path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            failed = sock.connect_ex(unix_path)
        else:
            family, place = socket_address(host, port)
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            tcp.set_up(sock)
            failed = sock.connect_ex(place)
        failed = 0 if failed == errno.EINPROGRESS else failed
        if unix_path or self._tls is None:
            return sock, failed
        return TlsSocket(sock, self._tls.connecting()), failed

    def opened(self, connection: Connection) -> None:
        """There is no better way than the direct one."""

    def dial_now(self, unix_path: str, timeout_s: float) -> socket.socket:
        """A connected Unix socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                try:
                    sock.connect(unix_path)
                except BlockingIOError:  # more than may wait there do already
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_AGAIN_S)
                else:
                    return sock
        except BaseException:
            sock.close()
            raise
