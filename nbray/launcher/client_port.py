"""The port for remote drivers, bound before the raylet that watches it."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from pathlib import Path

from nbray.common.addresses import is_loopback, joined, socket_address
from nbray.common.session import CLIENT_SOCKET, Session

DEFAULT_PORT = 10001
_LOOPBACK = "127.0.0.1"
_PORTS_TRIED = 50


@dataclass(frozen=True)
class RemoteDrivers:
    """Where drivers of other machines come; None: 10001 or the next that is free, 0: any port."""

    port: int | None = None


class ClientListeners:
    """The sockets on which remote drivers come: on the node's address, on loopback, and a Unix one.

    The second is for those who come by a forwarded port, as of ssh or kubectl; by the third the
    dashboard passes on who comes to it.
    """

    def __init__(self, host: str, port: int | None, session: Session) -> None:
        """Bind ``port``; None: 10001, or the next that is free; 0: any.

        Raises:
            ValueError: the port is in use. OSError: it cannot be listened on.
        """
        ports = [port or 0]
        if port is None:
            ports = [*range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED), 0]
        for one in ports:
            try:
                self._sockets = _bind(host, one)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise OSError(
                        f"Remote drivers cannot come to {joined(host, one)}: {error.strerror}."
                    ) from error
        else:
            raise ValueError(
                f"The port {port} for remote drivers is in use on {host}. Choose another by "
                "--ray-client-server-port; 0 takes any."
            )
        try:
            self._sockets.append(_bind_unix(session.socket_path(CLIENT_SOCKET)))
        except BaseException:
            self.close()
            raise
        self.address = joined(host, self._sockets[0].getsockname()[1])

    @property
    def descriptors(self) -> list[int]:
        """Their numbers."""
        return [sock.fileno() for sock in self._sockets]

    def close(self) -> None:
        """Close them here; who inherited them listens on."""
        for sock in self._sockets:
            sock.close()


def _bind_unix(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)  # of a head node that has crashed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    sock.listen(128)
    return sock


def _bind(host: str, port: int) -> list[socket.socket]:
    family, place = socket_address(host, port)
    sockets = [socket.create_server(place, family=family, backlog=128)]
    if not is_loopback(host):
        try:
            port = sockets[0].getsockname()[1]
            sockets.append(socket.create_server((_LOOPBACK, port), backlog=128))
        except BaseException:
            sockets[0].close()
            raise
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets
