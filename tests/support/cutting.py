"""Cuts the connections of living processes, as a cable does."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from nbray.core_worker.current import find_core


def my_port() -> int:
    """The TCP port at which this driver or worker listens."""
    core = find_core()
    assert core is not None
    return core.peers.address.port


def cut(port: int) -> int:
    """End every TCP connection of this process to or from that port; how many there were.

    Neither side has closed anything: both just find that the socket is dead.
    """
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(entry)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as sock:
                if sock.family != socket.AF_INET or sock.type != socket.SOCK_STREAM:
                    continue
                if port in (sock.getpeername()[1], sock.getsockname()[1]):
                    sock.shutdown(socket.SHUT_RDWR)
                    count += 1
    return count
