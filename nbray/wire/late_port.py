"""A TCP port whose server starts when somebody comes: most clusters are one machine.

gRPC costs each process 70 ms and 15 MB once it is imported, and its threads a part of a core for as
long as it serves, and within a machine nobody calls by it (`near_calls`). So this process listens
by itself until somebody begins to speak TLS. Then the server is started on the same port, and
whoever came before it had it is passed on to it, byte by byte, at a port for them alone, where the
server has them connect once more soon; the others are the server's own.

A server that can only listen for itself gets the port without a moment at which nobody has it: both
sockets say that they share it. This one says so no earlier, so that the port of another cluster is
never taken for a free one. What the kernel has connected to a socket is reset when that is closed:
so this one is closed when the kernel has for a while given it nothing any more.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from nbray.common.background import Background
from nbray.common.sparing_log import SparingLog
from nbray.wire import tcp
from nbray.wire.knock import TLS_HELLO

logger = logging.getLogger(__name__)
_failures = SparingLog(logger)

_BUFFERED = 256 << 10
_AGAIN_S = 0.1
_ON_ITS_WAY_S = 3.0  # at most, between the two halves of a TCP handshake


class LatePort:
    """Listens at ``host`` and ``port`` (0: a free one) until ``start`` is to serve there.

    Args:
        host: an address, or a name.
        port: its port.
        start: is called once with a host for those who are passed on, and returns their port; the
            server listens when it returns, here with SO_REUSEPORT.
        silent_s: who has said nothing for so long is disconnected.
        most: so many may be silent at once, of whom the first goes when another comes, and so many
            may be passed on.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        start: Callable[[str], Awaitable[int]],
        silent_s: float,
        most: int,
    ) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        try:
            self._socket = _listen(family, place)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(f"port {port} of {host} is in use") from error
            raise
        self._place = self._socket.getsockname()
        self._start = start
        self._silent_s = silent_s
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._silent: dict[socket.socket, asyncio.TimerHandle] = {}
        self._came: list[socket.socket] = []
        self._passed_on: set[_Half] = set()
        self._starting: asyncio.Task[None] | None = None
        self._loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self._passed_to = 0
        self._closing: asyncio.TimerHandle | None = None
        self._background = Background()
        self._loop.add_reader(self._socket, self._accept)

    @property
    def port(self) -> int:
        """The port."""
        return int(self._place[1])

    async def close(self) -> None:
        """Listen no more, and end the connections that were passed on."""
        if self._starting is not None:
            self._starting.cancel()
            with suppress(asyncio.CancelledError):
                await self._starting
        self._listen_no_more()
        for sock in [*self._silent, *self._came]:
            self._drop(sock)
        for half in list(self._passed_on):
            half.close()

    def _listen_no_more(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        if self._socket.fileno() >= 0:
            self._accept()  # who came here last
            self._loop.remove_reader(self._socket)
            self._socket.close()

    # --- who comes --------------------

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left, and who waits stays in the backlog
                _failures.warning("A connection cannot be taken: %s", error)
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_AGAIN_S, self._accept_again)
                return
            if len(self._came) + len(self._passed_on) // 2 >= self._most:
                sock.close()
                continue
            if len(self._silent) >= self._most:  # who comes to say something says it at once
                self._drop(next(iter(self._silent)))
            sock.setblocking(False)
            self._silent[sock] = self._loop.call_later(self._silent_s, self._drop, sock)
            self._loop.add_reader(sock, self._spoke, sock)

    def _accept_again(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._accept)

    def _drop(self, sock: socket.socket) -> None:
        silent = self._silent.pop(sock, None)
        if silent is not None:
            silent.cancel()
            self._loop.remove_reader(sock)
        sock.close()

    def _spoke(self, sock: socket.socket) -> None:
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if first != TLS_HELLO:
            self._drop(sock)
            return
        self._silent.pop(sock).cancel()
        self._loop.remove_reader(sock)
        self._came.append(sock)
        if self._passed_to:
            self._pass_all_on()
        elif self._starting is None:
            self._starting = self._loop.create_task(self._begin())

    # --- the server --------------------

    def share(self) -> None:
        """From now on a socket that says the same may listen here, too."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    async def _begin(self) -> None:
        try:
            passed_to = await self._start(self._loopback)
        except Exception:
            logger.exception("The server of port %d did not start.", self.port)
            came, self._came = self._came, []
            for sock in came:
                sock.close()
            self._starting = None  # the next who comes has it tried again
            return
        try:
            tcp.give_to_next(self._socket)
        except OSError as error:  # another kind of socket, as of a machine without IPv6
            logger.info("Port %d is handed on at once: %s", self.port, error)
            self._listen_no_more()
        else:
            self._closing = self._loop.call_later(_ON_ITS_WAY_S, self._listen_no_more)
        self._passed_to = passed_to
        self._pass_all_on()

    def _pass_all_on(self) -> None:
        came, self._came = self._came, []
        for sock in came:
            self._background.start(self._pass_on(sock))

    async def _pass_on(self, sock: socket.socket) -> None:
        inner = _Half(self._passed_on)
        outer = _Half(self._passed_on)
        inner.other, outer.other = outer, inner
        try:
            await self._loop.create_connection(lambda: inner, self._loopback, self._passed_to)
            await self._loop.connect_accepted_socket(lambda: outer, sock)
        except OSError as error:
            _failures.warning("A connection could not be passed on: %s", error)
            inner.close()
            sock.close()
            return
        inner.resume()


def _listen(family: int, place: tuple[Any, ...]) -> socket.socket:
    """A socket that listens there, as gRPC's does: the kernel has those alike share a port.

    Raises:
        OSError: it cannot be.
    """
    if family == socket.AF_INET:
        with suppress(OSError):  # there is no IPv6; what else is wrong, the other kind tells
            return _bound(socket.AF_INET6, (f"::ffff:{place[0]}", place[1]))
    return _bound(family, place)


def _bound(family: int, place: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(place)
        sock.listen(tcp.BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class _Half(asyncio.Protocol):
    """One of the two ends of a connection that is passed on."""

    def __init__(self, all_of_them: set[_Half]) -> None:
        self._all = all_of_them
        self._transport: asyncio.Transport | None = None
        self.other: _Half | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_BUFFERED)
        self._all.add(self)
        if self.other is not None and self.other._transport is None:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume()

    def connection_lost(self, _error: Exception | None) -> None:
        self._all.discard(self)
        other, self.other = self.other, None
        if other is not None:
            other.close()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """End it, after what is to be written."""
        if self._transport is not None:
            self._transport.close()
