"""How the sockets between machines are set up."""

from __future__ import annotations

import array
import errno
import random
import socket
import struct
from typing import Any

from nbray.common.addresses import socket_address

BACKLOG = 1024
"""So many, of Unix sockets too, may wait to be accepted by a process that has no time just now."""

_SO_ATTACH_REUSEPORT_CBPF = 51  # Linux's number, which `socket` does not name
_RETURN_ONE = struct.pack("HBBI", 0x06, 0, 0, 1)

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


def listen(host: str, first: int, last: int) -> socket.socket:
    """Listen on a port from ``first`` to ``last``; 0 takes any.

    Raises:
        OSError: none of them is free, or ``host`` is no address of this machine.
    """
    if not first:
        return _listen(host, 0)
    ports = range(first, max(first, last) + 1)
    begin = random.randrange(len(ports))  # those that start together try different ones
    for port in [*ports[begin:], *ports[:begin]]:
        try:
            return _listen(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(
        errno.EADDRINUSE,
        f"No port from {first} to {ports[-1]} is free for one more worker or driver: widen the "
        "range (nbray start --min-worker-port --max-worker-port)",
    )


def give_to_next(first: socket.socket) -> None:
    """Have the kernel give who connects from now on to the second socket that listens at a port.

    Args:
        first: the socket that listened there first; all say SO_REUSEPORT.

    Raises:
        OSError: nobody shares the port, or this kernel cannot do that.
    """
    program = array.array("B", _RETURN_ONE)  # a classic BPF program: the number of the socket
    address, size = program.buffer_info()
    count = size // struct.calcsize("HBBI")
    first.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", count, address)
    )


def _listen(host: str, port: int) -> socket.socket:
    family, place = socket_address(host, port)
    return socket.create_server(place, family=family, backlog=BACKLOG)
