"""Ports that a test names: nobody else takes them meanwhile."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOWEST = 12_000
"""Above the ports that nbray has by default, and those that it takes when they are in use."""


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 at which nobody listens.

    They are none that the kernel hands out: whoever asks it for any port meanwhile, or connects,
    gets another one.
    """
    handed_out = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    found: list[int] = []
    chosen = random.SystemRandom()
    while len(found) < count:
        port = chosen.randrange(_LOWEST, max(int(handed_out[0]), _LOWEST + 1000))
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:  # somebody has it
            continue
        if port not in found:
            found.append(port)
    return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody can: whoever connects is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        yield port
