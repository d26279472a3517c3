"""Sends objects of this node to other raylets, straight out of the arena or a file."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nbray.common.background import Background
from nbray.wire.bulk import HEAD, RECEIVED, BulkSocket, Request, limit_stalls
from nbray.wire.tls import TlsSocket

logger = logging.getLogger(__name__)

_THREADS = 64


@dataclass(frozen=True)
class Part:
    """Where bytes of an object are; ``release`` is called when nobody reads them any more."""

    fd: int
    offset: int
    length: int
    release: Callable[[], None]


@dataclass(eq=False)
class _Reader:
    """A raylet that asks on a socket. ``sent`` ends what it has not said yet to have received."""

    sock: BulkSocket
    asked: bytearray = field(default_factory=bytearray)
    sent: Callable[[], None] | None = None


class ObjectSender:
    """The sockets of other raylets.

    The event loop hears what they ask; a thread sends, so that a peer which stands still stops
    nobody else.

    Args:
        find: gives the part that is asked for, or says why it cannot be given.
        stall_s: a peer that takes nothing for so long is given up.
    """

    def __init__(self, find: Callable[[Request], Awaitable[Part | str]], stall_s: float) -> None:
        self._find = find
        self._stall_s = stall_s
        self._threads = ThreadPoolExecutor(_THREADS, "send")
        self._readers: set[_Reader] = set()
        self._background = Background()

    def take(self, sock: BulkSocket) -> None:
        """A raylet that has proved the token will ask on this socket."""
        limit_stalls(sock, socket.SO_SNDTIMEO, self._stall_s)
        reader = _Reader(sock)
        self._readers.add(reader)
        self._listen(reader)

    def stop(self) -> None:
        """End all sockets."""
        for reader in list(self._readers):
            self._end(reader)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _listen(self, reader: _Reader) -> None:
        asyncio.get_running_loop().add_reader(reader.sock.fileno(), self._heard, reader)

    def _heard(self, reader: _Reader) -> None:
        wanted = len(RECEIVED) if reader.sent is not None else Request.SIZE - len(reader.asked)
        try:
            data = reader.sock.recv(wanted, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(reader)
        elif reader.sent is not None:
            reader.sent()
            reader.sent = None
            if isinstance(reader.sock, TlsSocket) and reader.sock.pending():
                self._heard(reader)  # the next request came in the same packet
        else:
            reader.asked += data
            if len(reader.asked) == Request.SIZE:
                request = Request.unpack(reader.asked)
                reader.asked.clear()
                asyncio.get_running_loop().remove_reader(reader.sock.fileno())
                self._background.start(self._serve(reader, request))

    async def _serve(self, reader: _Reader, request: Request) -> None:
        part = await self._find(request)
        release = part.release if isinstance(part, Part) else _nothing
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, _send, reader.sock, part)
        except (OSError, RuntimeError) as error:  # the peer went, or this raylet ends
            logger.info("An object was not sent: %s", error)
            self._end(reader)
            release()
            return
        if reader not in self._readers:
            release()
            return
        reader.sent = release
        self._listen(reader)

    def _end(self, reader: _Reader) -> None:
        if reader not in self._readers:
            return
        self._readers.discard(reader)
        if reader.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(reader.sock.fileno())
            # Nothing of what was not received may be read from the object any more.
            reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reader.sock.close()
        if reader.sent is not None:
            reader.sent()
            reader.sent = None


def _nothing() -> None:
    """An error's text needs no release."""


def _send(sock: BulkSocket, part: Part | str) -> None:
    """Send an answer whole.

    Raises:
        OSError: the peer went, or took nothing for too long.
    """
    sock.setblocking(True)  # who watches a socket by the event loop makes it one that does not
    if isinstance(part, str):
        text = part.encode(errors="replace")
        sock.sendall(HEAD.pack(False, len(text)) + text)
        return
    sock.sendall(HEAD.pack(True, part.length), socket.MSG_MORE)
    if isinstance(sock, TlsSocket):  # what is encrypted here cannot go from file to socket
        sock.send_file(part.fd, part.offset, part.length)
        return
    offset, end = part.offset, part.offset + part.length
    while offset < end:
        sent = os.sendfile(sock.fileno(), part.fd, offset, end - offset)
        if not sent:
            raise OSError("the file is shorter than the object")
        offset += sent
