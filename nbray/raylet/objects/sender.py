"""Sends objects of this node to other raylets, straight out of the arena or a mapped file.

By `send`, in steps: on a loopback it takes six tenths of the processor's time that `sendfile` takes
for the same bytes, and elsewhere the network is what is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nbray.common.background import Background
from nbray.common.threads import ThreadPool
from nbray.wire.bulk import (
    HEAD,
    LONGEST_TEXT,
    RECEIVED,
    BulkSocket,
    Kind,
    Place,
    Request,
    limit_stalls,
)
from nbray.wire.tls import TlsSocket

logger = logging.getLogger(__name__)

_THREADS = 64
_STEP = 1 << 20


@dataclass(frozen=True)
class Part:
    """Bytes of an object.

    ``end`` is called once, when nobody reads them for this request any more, with whether the peer
    has them. With a ``place``, other raylets of this machine find them there.
    """

    view: memoryview
    end: Callable[[bool], None]
    place: Place | None = None


@dataclass(frozen=True)
class Elsewhere:
    """The node that gives a part; ``end`` is told once whether it did."""

    node_id: bytes
    end: Callable[[bool], None]


@dataclass(frozen=True)
class Nearby:
    """Where a raylet of this machine reads a part; ``end`` is as that of a `Part`."""

    place: Place
    end: Callable[[bool], None]


Answer = Part | Elsewhere | Nearby | str


@dataclass(eq=False)
class _Reader:
    """A raylet that asks on a socket.

    ``end`` ends the answer to ``request`` of which it has not said yet what became of it.
    """

    sock: BulkSocket
    asked: bytearray = field(default_factory=bytearray)
    request: Request | None = None
    end: Callable[[bool], None] | None = None


class ObjectSender:
    """The sockets of other raylets.

    The event loop hears what they ask; a thread sends, so that a peer which stands still stops
    nobody else.

    Args:
        find: gives the part that is asked for, or says who or what has it, or why there is none.
        find_now: the same, if that is known without a wait; else None.
        stall_s: a peer that takes nothing for so long is given up.
    """

    def __init__(
        self, find: Callable[[Request], Awaitable[Answer]],
        find_now: Callable[[Request], Answer | None], stall_s: float,
    ) -> None:  # fmt: skip
        self._find = find
        self._find_now = find_now
        self._stall_s = stall_s
        self._threads = ThreadPool(_THREADS, "send")
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
        wanted = len(RECEIVED) if reader.end is not None else Request.SIZE - len(reader.asked)
        try:
            data = reader.sock.recv(wanted, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(reader)
        elif reader.end is not None:
            came = data == RECEIVED
            self._ended(reader, came)
            if not came:
                self._answer(reader)
            elif isinstance(reader.sock, TlsSocket) and reader.sock.pending():
                self._heard(reader)  # the next request came in the same packet
        else:
            reader.asked += data
            if len(reader.asked) == Request.SIZE:
                reader.request = Request.unpack(reader.asked)
                reader.asked.clear()
                self._answer(reader)

    def _answer(self, reader: _Reader) -> None:
        assert reader.request is not None
        try:
            answer = self._find_now(reader.request)
        except Exception:
            self._fail(reader)
            return
        if answer is None or isinstance(answer, Part):
            asyncio.get_running_loop().remove_reader(reader.sock.fileno())
            self._background.start(self._serve(reader, reader.request, answer))
            return
        end = _end_of(answer)
        try:
            _say(reader.sock, answer)
        except OSError as error:
            logger.info("An object was not sent: %s", error)
            self._end(reader)
            end(False)
            return
        reader.end = end

    async def _serve(self, reader: _Reader, request: Request, known: Part | None) -> None:
        try:
            answer = known or await self._find(request)
        except Exception:
            self._fail(reader)
            return
        end = _end_of(answer)
        try:
            if isinstance(answer, Part):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, _send, reader.sock, answer.view)
            else:
                _say(reader.sock, answer)
        except (OSError, RuntimeError) as error:  # the peer went, or this raylet ends
            logger.info("An object was not sent: %s", error)
            self._end(reader)
            end(False)
            return
        if reader not in self._readers:
            end(False)
            return
        reader.end = end
        self._listen(reader)

    def _fail(self, reader: _Reader) -> None:
        """What is asked for was not found by an error of ours: nobody is to wait for it."""
        logger.exception("An object was not looked for.")
        self._end(reader)

    def _end(self, reader: _Reader) -> None:
        if reader not in self._readers:
            return
        self._readers.discard(reader)
        if reader.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(reader.sock.fileno())
            reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reader.sock.close()
        self._ended(reader, False)

    def _ended(self, reader: _Reader, came: bool) -> None:
        end, reader.end = reader.end, None
        if end is not None:
            end(came)


def _end_of(answer: Answer) -> Callable[[bool], None]:
    return _nothing if isinstance(answer, str) else answer.end


def _nothing(_came: bool) -> None:
    """An error's text needs no end."""


def _say(sock: BulkSocket, answer: Elsewhere | Nearby | str) -> None:
    """Send a short answer: the peer has read all that went before, so there is room for it.

    Raises:
        OSError: the peer went.
    """
    if isinstance(answer, str):
        kind, data = Kind.TEXT, answer.encode(errors="replace")[:LONGEST_TEXT]
    elif isinstance(answer, Elsewhere):
        kind, data = Kind.ELSEWHERE, answer.node_id
    else:
        kind, data = Kind.MEMORY, answer.place.pack()
    sock.sendall(HEAD.pack(kind, len(data)) + data)


def _send(sock: BulkSocket, view: memoryview) -> None:
    """Send a part whole.

    Raises:
        OSError: the peer went, or took nothing for too long.
    """
    sock.setblocking(True)  # who watches a socket by the event loop makes it one that does not
    sock.sendall(HEAD.pack(Kind.BYTES, len(view)), socket.MSG_MORE)
    for start in range(0, len(view), _STEP):
        sock.sendall(view[start : start + _STEP])
