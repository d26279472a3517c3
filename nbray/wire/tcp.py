"""How the sockets between machines are set up."""

from __future__ import annotations

import socket
from typing import Any

_SILENT_S = 15
_PROBE_S = 5
_PROBES = 3
_UNANSWERED_MS = 30_000


def set_up(sock: socket.socket | Any) -> None:
    """Send at once what is written, and notice a path that has vanished within half a minute.

    By default, Linux goes on for a quarter of an hour. A process that only stands still is not
    taken for vanished: its machine answers. And should it be, its connection is made again.

    Args:
        sock: a TCP socket, or what asyncio gives for one.
    """
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MS),
    ):
        sock.setsockopt(level, option, value)
