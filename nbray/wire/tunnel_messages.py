"""What a driver that is not on a machine of the cluster and its gateway say to each other.

After the handshake the driver's side says `Knock` and the gateway answers `Welcome`, each with its
length in front (`packed`); then come frames of the tunnel. The header of each of its streams says
what it is for (`Purpose`). A connection for which the driver says `Shortcut` instead leads to one
worker, which takes it over; the gateway says `READY` when it has. One that says `Farewell` ends a
driver whose own connection can say nothing any more.
"""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import msgspec

ENDPOINT = b"nbray gateway"
"""What both sides of the handshake take for its address: networks between them may translate it."""

LONGEST = 64 << 10
LENGTH = struct.Struct("<I")
_T = TypeVar("_T")


class Knock(msgspec.Struct, array_like=True, tag=1):
    """The driver's side to the gateway: which tunnel this connection is to carry.

    Attributes:
        tunnel: its id, 16 random bytes.
        known: the gateway has answered for it before.
        received: how many bytes of it have come.
        worker_id: the driver.
        grace_s: how long it may be away.
        packages: versions of packages that both sides should have alike.
    """

    tunnel: bytes
    known: bool
    received: int
    worker_id: bytes
    grace_s: float
    packages: dict[str, str] = {}


class Shortcut(msgspec.Struct, array_like=True, tag=2):
    """A driver to the gateway: hand this connection to a process of the head node.

    Attributes:
        tunnel: the driver's.
        unix_path: where the process listens.
    """

    tunnel: bytes
    unix_path: str


class Farewell(msgspec.Struct, array_like=True, tag=3):
    """For a driver whose agent has ended to the gateway: nobody comes back for that tunnel.

    Whoever says it has proved the token, and knows the id, which only the driver's side has. It is
    answered by a `Welcome` that refuses, whether the gateway knows of the tunnel or not.

    Attributes:
        tunnel: the driver's.
    """

    tunnel: bytes


Visit = Knock | Shortcut | Farewell

READY = b"\1"
"""The gateway to the driver: what is said from now on, the process hears itself."""


class Welcome(msgspec.Struct, array_like=True):
    """The gateway's answer.

    Attributes:
        refused: why the connection is of no use; empty if it is.
        received: how many bytes of the tunnel have come.
        grace_s: how long the driver may be away.
        unix_path: where the driver is reached by processes of the head node.
        host: and by all others.
        port: its port there.
        info: what the head node's session folder tells (`nbray.common.session.SessionInfo`), as
            JSON.
        cluster: the name of that folder.
        packages: versions of the head node's packages that are not as the driver said.
    """

    refused: str = ""
    received: int = 0
    grace_s: float = 0.0
    unix_path: str = ""
    host: str = ""
    port: int = 0
    info: bytes = b""
    cluster: str = ""
    packages: dict[str, str] = {}


class Dial(msgspec.Struct, array_like=True, tag=1):
    """Driver to gateway: connect to a process of the cluster, whose proof the gateway checks.

    Attributes:
        unix_path: on the head node; empty: by TCP.
    """

    unix_path: str
    host: str
    port: int


class Write(msgspec.Struct, array_like=True, tag=2):
    """Driver to gateway: ``size`` bytes follow, for a place in the store of the head node.

    When they are there, one byte comes back.

    Attributes:
        ticket: by which the driver takes it back (`Stop`).
        path: where the store's memory, or a file of it, is opened.
        arena_size: the size of that memory; 0: it is a file.
    """

    ticket: int
    path: str
    arena_size: int
    offset: int
    size: int


class Read(msgspec.Struct, array_like=True, tag=3):
    """Driver to gateway: send ``size`` bytes from a place in the store, which the driver pinned."""

    path: str
    arena_size: int
    offset: int
    size: int


class Browse(msgspec.Struct, array_like=True, tag=4):
    """Driver to gateway: connect to the dashboard, which asks for its own proofs."""


class Accepted(msgspec.Struct, array_like=True, tag=5):
    """Gateway to driver: a process that proved the token has connected to it."""


class Stop(msgspec.Struct, array_like=True, tag=6):
    """Driver to its agent: no byte of that `Write` may go to the gateway any more.

    The connection is closed when that is so.
    """

    ticket: int


Purpose = Dial | Write | Read | Browse | Accepted | Stop

_purpose: msgspec.msgpack.Decoder[Purpose] = msgspec.msgpack.Decoder(Purpose)


def purpose_of(header: bytes) -> Purpose:
    """What a stream is for.

    Raises:
        ValueError: the header says nothing known.
    """
    try:
        return _purpose.decode(header)
    except msgspec.DecodeError as error:
        raise ValueError(f"a stream for nothing known: {error}") from error


def packed(message: Any) -> bytes:
    """A message with its length in front."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


class Unpacker:
    """Takes one message with its length in front out of bytes as they come."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._data = b""

    def feed(self, data: bytes, kind: type[_T]) -> tuple[_T | None, bytes]:
        """The message, once it is there, and the bytes behind it.

        Raises:
            ValueError: it is too long or malformed.
        """
        self._data += data
        if len(self._data) < LENGTH.size:
            return None, b""
        (length,) = LENGTH.unpack_from(self._data)
        if length > self._longest:
            raise ValueError(f"a message of {length} bytes where {self._longest} are the most")
        end = LENGTH.size + length
        if len(self._data) < end:
            return None, b""
        try:
            message = msgspec.msgpack.decode(self._data[LENGTH.size : end], type=kind)
        except msgspec.DecodeError as error:
            raise ValueError(f"a malformed message: {error}") from error
        return message, self._data[end:]
