"""Objects between raylets: bytes on a socket of their own, without frames.

The socket comes to the port of the frame wire, and both sides prove the token as there; then the
connecting side opens no link but names `LINK_ID`. It asks for a part of an object by a `Request`,
and is sent a head that says which `Kind` of answer follows and how many bytes of it: of the object,
of a text that says why there are none, the id of another node that gives the part instead, or where
the part lies, if both raylets are on one machine.

When it has the part, from here or from there, it sends `RECEIVED`, and may ask again: until then
the sender keeps the object. When the other node did not give it, it sends `MISSED`, and is answered
once more.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from nbray.wire import tcp
from nbray.wire.handshake import ClientHandshake, HandshakeError
from nbray.wire.link import Answer, Opening
from nbray.wire.tls import Tls, TlsSocket

LINK_ID = b"objects, no link"
RECEIVED = b"\x01"
MISSED = b"\x00"
HEAD = struct.Struct("<BQ")
"""The `Kind` of an answer, and how many bytes follow."""
LONGEST_TEXT = 1 << 12
"""Of an answer that is no part."""

MACHINE_BYTES = 16
NO_MACHINE = bytes(MACHINE_BYTES)

_ID_BYTES = 28
_TIME = struct.Struct("ll")


class Kind(IntEnum):
    """What an answer is."""

    TEXT = 0
    """Why there is nothing."""
    BYTES = 1
    """The part."""
    ELSEWHERE = 2
    """The id of a node to ask for it."""
    MEMORY = 3
    """The `Place` of it."""


@dataclass(frozen=True)
class Request:
    """``length`` bytes of an object from ``offset`` on, for the raylet of a node.

    With ``sent_on`` another node sent it: whoever is asked now gives the part, or says that it
    cannot, and may be receiving it. Who asks can read the memory of ``machine`` (as of
    `nbray.object_store.neighbour.machine_id`), if it names one.
    """

    object_id: bytes
    node_id: bytes
    offset: int
    length: int
    sent_on: bool = False
    machine: bytes = NO_MACHINE

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(
        f"<{_ID_BYTES}s{_ID_BYTES}sQQ?{MACHINE_BYTES}s"
    )
    SIZE: ClassVar[int] = _LAYOUT.size

    def pack(self) -> bytes:
        """The bytes of it."""
        return self._LAYOUT.pack(
            self.object_id, self.node_id, self.offset, self.length, self.sent_on, self.machine
        )

    @classmethod
    def unpack(cls, data: bytes | bytearray) -> Request:
        """What those bytes say."""
        return cls(*cls._LAYOUT.unpack(data))


@dataclass(frozen=True)
class Place:
    """Where a part begins, in memory that processes of one machine may map.

    Attributes:
        path: of the memory file, under ``/proc``.
        inode: its number, by which it is known.
        size: bytes of the file.
        offset: where in it.
    """

    path: str
    inode: int
    size: int
    offset: int

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQQ")

    def pack(self) -> bytes:
        """The bytes of it."""
        return self._LAYOUT.pack(self.inode, self.size, self.offset) + self.path.encode()

    @classmethod
    def unpack(cls, data: bytes | bytearray) -> Place:
        """What those bytes say.

        Raises:
            struct.error, UnicodeDecodeError: they are no place.
        """
        return cls(data[cls._LAYOUT.size :].decode(), *cls._LAYOUT.unpack_from(data))


BulkSocket = socket.socket | TlsSocket


def connect(host: str, port: int, token: bytes, timeout_s: float, tls: Tls | None) -> BulkSocket:
    """A socket that blocks, on which the other side waits for requests.

    Raises:
        OSError: nobody is there, or not in time. HandshakeError: it is not of this cluster.
    """
    plain = socket.create_connection((host, port), timeout_s)
    try:
        tcp.set_up(plain)
        sock: BulkSocket = plain
        handshake = ClientHandshake(token, plain.getpeername)
        if tls is not None:
            stream = tls.connecting()
            sock = TlsSocket(plain, stream)
            handshake = ClientHandshake(token, plain.getpeername, stream.binding)
            sock.send(b"")
        rest: bytes | None = None
        while rest is None:
            reply, rest = handshake.feed(_some(sock))
            if reply:
                sock.sendall(reply + Opening(LINK_ID).pack())
        while len(rest) < Answer.SIZE:
            rest += _some(sock)
        if not Answer.unpack(rest[: Answer.SIZE]).accepted:
            raise HandshakeError("the peer sends no objects")
    except BaseException:
        plain.close()
        raise
    return sock


def limit_stalls(sock: BulkSocket, option: int, seconds: float) -> None:
    """Have a socket that blocks fail when nothing moves for so long, by the kernel's own clock.

    Args:
        sock: the socket; it blocks from now on.
        option: ``SO_RCVTIMEO`` or ``SO_SNDTIMEO``.
        seconds: whole seconds; at least one.
    """
    sock.setblocking(True)
    sock.setsockopt(socket.SOL_SOCKET, option, _TIME.pack(max(1, round(seconds)), 0))


def _some(sock: BulkSocket) -> bytes:
    data = sock.recv(4096)
    if not data:
        raise ConnectionResetError(
            "the peer closed the connection in the handshake: is the token the same?"
        )
    return data
