"""Listening sockets of an event loop that pause when no descriptor is left.

uvloop's own servers, as all of libuv's, either look again at once, for ever, or make room by taking
who waits in and closing the connection at once. Here who waits stays in the kernel's queue, and is
taken in when there is a descriptor: one second later a look is made, as by asyncio's servers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nbray.common.background import Background
from nbray.common.sparing_log import SparingLog
from nbray.wire.tcp import BACKLOG

_log = SparingLog(logging.getLogger(__name__))

_PAUSE_S = 1.0
_AT_ONCE = 64


class Accepting:
    """Makes a connection of asyncio of each one that comes to ``sock``, which is its own from now.

    ``options``: further arguments of `loop.connect_accepted_socket`. It ends with `close`.
    """

    def __init__(
        self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol], **options: Any
    ) -> None:
        self._sock = sock
        self._protocol = protocol
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        sock.setblocking(False)
        self._look()

    @property
    def port(self) -> int:
        """Where it listens, if that is a port."""
        return int(self._sock.getsockname()[1])

    def close(self) -> None:
        """Listen no more; those that have come stay."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _look(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                peer, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("A connection could not be accepted: %s.", error)
                self._loop.remove_reader(self._sock)
                self._loop.call_later(_PAUSE_S, self._look)
                return
            peer.setblocking(False)
            self._background.start(self._begin(peer))

    async def _begin(self, peer: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, peer, **self._options)
        except (OSError, asyncio.CancelledError) as error:  # of TLS, or none is left for a copy
            _log.warning("A connection did not begin: %s.", error)
            peer.close()


def accept_unix(path: str, protocol: Callable[[], asyncio.Protocol]) -> Accepting:
    """Listen at ``path``; what is left there of a process that has ended is replaced.

    Raises:
        OSError: that cannot be.
    """
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
        return Accepting(sock, protocol)
    except OSError:
        sock.close()
        raise
