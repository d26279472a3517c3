"""Where the dashboard of a head node listens.

The listening socket is bound here, so that the address is known at once. The head's raylet gets it,
and starts the process when somebody comes (`nbray.raylet.beside.dashboard`).
"""

from __future__ import annotations

import errno
import importlib.util
import socket
from dataclasses import dataclass
from pathlib import Path

from nbray.common.addresses import is_loopback, joined, socket_address
from nbray.common.session import Session
from nbray.wire.tls import FOLDER

DEFAULT_PORT = 8265
LOOPBACK = "127.0.0.1"
_PORTS_TRIED = 50


@dataclass(frozen=True)
class DashboardOptions:
    """What the user said of the dashboard.

    Attributes:
        include: False leaves it out; True insists; None starts it if it can be, unless
            ``NBRAY_INCLUDE_DASHBOARD`` is 0.
        host: the address to listen on.
        port: None takes 8265, or the next that is free; 0 any; else exactly this one.
    """

    include: bool | None = None
    host: str = LOOPBACK
    port: int | None = None

    @property
    def insists(self) -> bool:
        """Whether there is no cluster without the dashboard that is described."""
        return bool(self.include) or self.port is not None or self.host != LOOPBACK


def missing_packages() -> list[str]:
    """The packages of the dashboard that are not installed."""
    return [name for name in ("bokeh", "tornado") if importlib.util.find_spec(name) is None]


def bind(options: DashboardOptions) -> socket.socket:
    """The listening socket of a dashboard.

    Raises:
        ValueError: the port that was asked for is in use, or none. OSError: it cannot listen.
    """
    if not options.host:
        raise ValueError("dashboard_host is empty; 0.0.0.0 listens on every address.")
    first = DEFAULT_PORT if options.port is None else options.port
    ports = [first]
    if options.port is None:  # a machine may have more clusters than that, or a user who takes all
        ports = [*range(first, first + _PORTS_TRIED + 1), 0]
    elif not 0 <= first < 1 << 16:
        raise ValueError(f"dashboard_port={first} is no port: they go from 0 to 65535.")
    for port in ports:
        try:
            family, place = socket_address(options.host, port)
            return socket.create_server(place, family=family, backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OSError(
                    f"The dashboard cannot listen on {options.host}:{port}: {error.strerror}."
                ) from error
    raise ValueError(
        f"Failed to bind to {options.host}:{first} because it's already occupied. Choose another "
        "port with `nbray start --dashboard-port ...` or `nbray.init(dashboard_port=...)`."
    )


def url_of(listener: socket.socket, session: Session, node_ip: str) -> str:
    """Where a dashboard is that listens there, as "host:port", or "https://host:port" with TLS."""
    host, port = listener.getsockname()[:2]
    host = node_ip if host in ("0.0.0.0", "::") else host
    has_tls = not is_loopback(host) and (session.path / FOLDER).is_dir()
    return ("https://" if has_tls else "") + joined(host, port)


def dashboard_log(session: Session) -> Path:
    """Where the dashboard says what went wrong."""
    return session.log_path("dashboard.log")
