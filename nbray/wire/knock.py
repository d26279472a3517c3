"""A word in advance to a port whose server starts when somebody comes (`late_port`)."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread

from nbray.common.addresses import split

TLS_HELLO = b"\x16"
"""How who speaks TLS begins."""

_PATIENCE_S = 3.0


def knock(address: str) -> None:
    """Have the server at HOST:PORT started while a process comes up that will call it.

    Each of the two takes a tenth of a second for what it imports. Nothing is waited for, and
    whether anybody is there, the one who calls will find out.
    """
    Thread(target=_say, args=(address,), daemon=True).start()


def _say(address: str) -> None:
    with suppress(OSError), socket.create_connection(split(address), _PATIENCE_S) as sock:
        sock.sendall(TLS_HELLO)
