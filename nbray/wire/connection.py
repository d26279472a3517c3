"""A frame connection of a driver or worker; its reactor says when to read and write."""

from __future__ import annotations

import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbray.wire.frames import FrameDecoder, FrameError, encode_frame
from nbray.wire.handshake import ClientHandshake, HandshakeError, ServerHandshake
from nbray.wire.messages import Message

if TYPE_CHECKING:
    from nbray.wire.reactor import Reactor

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 18


class Connection:
    """A frame connection; what is sent before the handshake is done waits for it.

    Only the holder of the baton may use it.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
        handshake: ClientHandshake | ServerHandshake,
    ) -> None:
        self.reactor = reactor
        self.sock = sock
        self.on_message = on_message
        self.on_closed = on_closed
        self.closed = False
        self.state: Any = None
        self.known_functions: set[bytes] = set()
        self._handshake: ClientHandshake | ServerHandshake | None = handshake
        self._accepted = isinstance(handshake, ServerHandshake)
        self._decoder = FrameDecoder(reactor.config.max_frame_bytes)
        self._queued: list[Message] = []
        self._unsent: deque[memoryview] = deque()
        self._writable_wanted = False

    @property
    def established(self) -> bool:
        """Whether the peer has proved that it belongs to the cluster."""
        return self._handshake is None

    @property
    def congested(self) -> bool:
        """Whether the peer has not yet read all that was sent."""
        return bool(self._unsent)

    def send(self, message: Message) -> None:
        """Queue ``message``; it leaves with the others at the end of this turn."""
        if not self._queued:
            self.reactor.dirty.append(self)
        self._queued.append(message)

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""
        if self.closed:
            self._queued.clear()
            return
        if self._queued and self._handshake is None:
            self._unsent.append(memoryview(encode_frame(self._queued)))
            self._queued = []
        try:
            while self._unsent:
                head = self._unsent[0]
                sent = self.sock.send(head)
                if sent < len(head):
                    self._unsent[0] = head[sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass  # the poller says when there is room again
        except OSError as error:
            self.close(str(error))
            return
        if bool(self._unsent) != self._writable_wanted:
            self._writable_wanted = bool(self._unsent)
            mask = select.EPOLLIN | (select.EPOLLOUT if self._writable_wanted else 0)
            self.reactor.poller.modify(self.sock.fileno(), mask)

    def handle_events(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self.flush()
        if not self.closed and events & ~select.EPOLLOUT:
            self._read()

    def _read(self) -> None:
        try:
            size = self.sock.recv_into(self.reactor.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(str(error))
            return
        if not size:
            self.close("the peer closed the connection")
            return
        data: bytes | memoryview = self.reactor.buffer[:size]
        try:
            if self._handshake is not None:
                reply, rest = self._handshake.feed(bytes(data))
                if reply:
                    self._unsent.append(memoryview(reply))
                if rest is not None:
                    self._handshake = None
                self.flush()
                if not rest:
                    return
                data = rest
            messages = self._decoder.feed(data)
        except (HandshakeError, FrameError) as error:
            logger.warning("Closed a connection: %s.", error)
            self.close(str(error))
            return
        for message in messages:
            try:
                self.on_message(self, message)
            except Exception:
                # One message's failure must not lose those behind it.
                logger.exception("The handler of a %s failed.", type(message).__name__)

    def receive_handshake(self) -> None:
        """Take one part of the handshake, on a socket that blocks.

        Raises:
            OSError: the peer went. HandshakeError: it is not of this cluster.
        """
        assert self._handshake is not None
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise HandshakeError(
                "the peer closed the connection during the handshake: is the token the same?"
            )
        reply, rest = self._handshake.feed(data)
        self.sock.sendall(reply)
        if rest is not None:
            self._handshake = None

    def close(self, reason: str) -> None:
        """End the connection; its `on_closed` is called once."""
        if self.closed:
            return
        self.closed = True
        self.reactor.forget(self)
        self.sock.close()
        if self._handshake is None or not self._accepted:
            self.on_closed(self)

    def close_unless_authenticated(self) -> None:
        """Half-open connections end when their time for the handshake is over."""
        if self._handshake is not None and not self.closed:
            logger.warning("Closed a connection: no handshake in time.")
            self.close("no handshake in time")
