"""How the core worker of a remote driver makes its sockets: all lead to the agent beside it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import msgspec

from nbray.wire.connection import Connection
from nbray.wire.tunnel_messages import LENGTH, Dial, Purpose


class Road:
    """The ways of a remote driver; see `nbray.wire.connection.Ways`.

    Args:
        agent: the agent's Unix socket.
        patience_s: how long the driver may be away.
    """

    trusted = True

    def __init__(self, agent: str, patience_s: float) -> None:
        self.patience_s = patience_s
        self._agent = agent
        self.on_opened: Callable[[Connection], None] | None = None

    def dial(self, unix_path: str, host: str, port: int) -> tuple[socket.socket, int]:
        """A socket to that place, by way of the gateway, and the error number if there is none."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        failed = sock.connect_ex(self._agent)
        if not failed:
            try:
                sock.send(_header(Dial(unix_path, host, port)))  # there is room for it
            except OSError as error:
                failed = error.errno or errno.EPIPE
        return sock, failed

    def opened(self, connection: Connection) -> None:
        """It goes through the tunnel now."""
        if self.on_opened is not None:
            self.on_opened(connection)

    def dial_now(self, unix_path: str, timeout_s: float) -> socket.socket:
        """A socket to a server of the head node.

        Raises:
            OSError: the agent has gone.
        """
        return self.open(Dial(unix_path, "", 0), timeout_s)

    def open(self, purpose: Purpose, timeout_s: float | None = None) -> socket.socket:
        """A socket to the agent, for that purpose.

        Raises:
            OSError: the agent has gone.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(self._agent)
            sock.sendall(_header(purpose))
        except BaseException:
            sock.close()
            raise
        return sock


def _header(purpose: Purpose) -> bytes:
    body = msgspec.msgpack.encode(purpose)
    return LENGTH.pack(len(body)) + body
