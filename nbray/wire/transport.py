"""One socket of a driver or worker: its handshake, and the bytes that it has not taken yet."""

from __future__ import annotations

import logging
import os
import select
import socket
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from nbray.common.sparing_log import SparingLog
from nbray.wire.frames import FrameError
from nbray.wire.handshake import ClientHandshake, HandshakeError, ServerHandshake
from nbray.wire.reactor import Reactor
from nbray.wire.tls import TlsSocket

logger = logging.getLogger(__name__)
_strangers = SparingLog(logger)

_EARLY_BYTES = 4096  # of a handshake; each read makes room for so many
_READABLE, _WRITABLE = select.EPOLLIN, select.EPOLLOUT


class Carried(Protocol):
    """What a transport carries, or who finds out what it is to carry.

    Attributes:
        preamble_bytes: how many bytes of the peer follow the handshake before what it carries.
    """

    preamble_bytes: int

    def greeting(self) -> bytes:
        """Bytes that go out with this side's part of the handshake."""

    def opened(self, transport: Transport, preamble: bytes) -> None:
        """Called when the peer has proved the token and said its preamble."""

    def received(self, data: bytes | memoryview) -> None:
        """Called with what comes after that; ``data`` is not kept.

        Raises:
            FrameError: the peer broke the protocol.
        """

    def lost(self, transport: Transport, reason: str, for_good: bool) -> None:
        """Called once at the end of the socket, unless `Transport.drop` was called.

        ``for_good``: the peer broke the protocol, so that nothing is to be had from it.
        """


class Transport:
    """A socket that is watched by a reactor. Only the holder of the baton may use it.

    Attributes:
        handed: a descriptor that came over this Unix socket before it was open; -1: none.
        giver: the transport over which this socket itself was handed over; they end together.
    """

    handed = -1
    giver: Transport | None = None

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket | TlsSocket,
        handshake: ClientHandshake | ServerHandshake | None,
        carried: Carried,
    ) -> None:
        """Without a ``handshake``, who stands between has proved the token on both sides."""
        self.carried = carried
        self.closed = False
        self.is_open = False
        self._reactor = reactor
        self._sock = sock
        self._handshake = handshake
        self._trusted = handshake is None
        self._client = isinstance(handshake, ClientHandshake)
        self._may_be_handed = (
            isinstance(handshake, ServerHandshake)
            and isinstance(sock, socket.socket)
            and sock.family == socket.AF_UNIX
        )
        self._preamble = b""
        self._unsent: deque[memoryview] = deque()
        self._writable_wanted = False

    @property
    def congested(self) -> bool:
        """Whether the peer has not yet read all that was written."""
        return bool(self._unsent)

    def start(self, timeout_s: float) -> None:
        """Have the reactor watch the socket, and end it if the handshake takes ``timeout_s``."""
        self._reactor.watch(self._sock.fileno(), self.handle_events, self._sock.close)
        if isinstance(self._handshake, ServerHandshake):
            self.write([self._handshake.hello])
            self.flush()
        elif isinstance(self._sock, TlsSocket):  # it begins, as soon as it is connected
            self.write([b""])
            self._want_to_write(True)
        elif self._trusted and (greeting := self.carried.greeting()):
            self.write([greeting])
            self.flush()
        self._reactor.call_later(timeout_s, self._end_half_open)

    def shake_hands_now(self) -> None:
        """Go through the handshake on a socket that blocks.

        Raises:
            OSError: the peer went. HandshakeError: it is not of this cluster.
        """
        if self._trusted:
            self._sock.sendall(self.carried.greeting())
        while not self.is_open:
            data = self._sock.recv(len(self._reactor.buffer))
            if not data:
                raise HandshakeError(
                    "the peer closed the connection during the handshake: is the token the same?"
                )
            self._take(data)
            while self._unsent:
                self._sock.sendall(self._unsent.popleft())

    def send(self, parts: list[bytearray]) -> None:
        """Queue bytes and write what the socket takes: most often one frame, which it takes."""
        if len(parts) == 1 and not self._unsent:
            (part,) = parts
            try:
                sent = self._sock.send(part)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.end(str(error))
                return
            if sent == len(part):
                return
            self._unsent.append(memoryview(part)[sent:])
        else:
            self.write(parts)
        self.flush()

    def write(self, parts: Iterable[bytes | bytearray]) -> None:
        """Queue bytes; `flush` sends them."""
        self._unsent.extend(map(memoryview, parts))

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""
        unsent = self._unsent
        try:
            while unsent:
                head = unsent[0]
                sent = self._sock.send(head)
                if sent < len(head):
                    unsent[0] = head[sent:]
                else:
                    unsent.popleft()
        except BlockingIOError:
            pass  # the poller says when there is room again
        except OSError as error:
            self.end(str(error))
            return
        if bool(unsent) != self._writable_wanted:
            self._want_to_write(bool(unsent))

    def _want_to_write(self, wanted: bool) -> None:
        self._writable_wanted = wanted
        mask = select.EPOLLIN | (select.EPOLLOUT if wanted else 0)
        self._reactor.poller.modify(self._sock.fileno(), mask)

    def handle_events(self, events: int) -> None:
        """Called when the socket can be read or written."""
        if events == _READABLE and not self.closed:  # as most
            self._read()
            return
        if events & _WRITABLE and not self.closed:
            self.flush()
        if events & ~_WRITABLE and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            if self._may_be_handed:
                size = self._receive_with_descriptor()
            else:
                size = self._sock.recv_into(self._reactor.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            if isinstance(error, HandshakeError):
                _strangers.info("Closed a connection: %s.", error)
            self.end(str(error))
            return
        if not size:
            self.end("the peer closed the connection")
            return
        data = self._reactor.buffer[:size]
        try:
            if self.is_open:
                self.carried.received(data)
            else:
                self._take(bytes(data))
                if self._unsent and not self.closed:
                    self.flush()
        except (HandshakeError, FrameError) as error:
            _strangers.info("Closed a connection: %s.", error)
            # Who does not know the token is a stranger in the peer's place, perhaps for a moment.
            self.end(str(error), for_good=isinstance(error, FrameError))

    def _receive_with_descriptor(self) -> int:
        assert isinstance(self._sock, socket.socket)
        buffer = self._reactor.buffer
        data, found, *_ = socket.recv_fds(self._sock, _EARLY_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        for descriptor in found:
            self._close_handed()
            self.handed = descriptor
        buffer[: len(data)] = data
        return len(data)

    def _close_handed(self) -> None:
        if self.handed >= 0:
            os.close(self.handed)
            self.handed = -1

    def hand_to(self, carried: Carried) -> None:
        """It is to carry another from now on, whose preamble comes next."""
        self.carried = carried
        self.is_open = False
        self.write([carried.greeting()])
        self.flush()

    def _take(self, data: bytes) -> None:
        """Take a part of the handshake or of the preamble."""
        if self._handshake is not None:
            reply, rest = self._handshake.feed(data)
            if reply:
                self.write([reply, self.carried.greeting()] if self._client else [reply])
            if rest is None:
                return
            self._handshake = None
            data = rest
        self._preamble += data
        wanted = self.carried.preamble_bytes
        if len(self._preamble) < wanted:
            return
        preamble, rest = self._preamble[:wanted], self._preamble[wanted:]
        self._preamble = b""
        self.is_open = True
        self._may_be_handed = False
        self.carried.opened(self, preamble)
        if rest and not self.closed:
            self.carried.received(rest)

    def drop(self) -> None:
        """End the socket; nobody is told."""
        if not self.closed:
            self.closed = True
            self._reactor.forget(self._sock.fileno())
            self._sock.close()
            self._close_handed()
            if self.giver is not None:
                self.giver.drop()

    def end(self, reason: str, for_good: bool = False) -> None:
        """End the socket, and tell what it carries; see `Carried.lost`."""
        if not self.closed:
            self.drop()
            self.carried.lost(self, reason, for_good)

    def _end_half_open(self) -> None:
        if not self.is_open and not self.closed:
            _strangers.info("Closed a connection: no handshake in time.")
            self.end("no handshake in time")
