"""Frames: messages in, bytes out, and back, without a socket anywhere.

A frame is two little-endian 32-bit numbers, its length and how many frames the sender has
received so far (see :mod:`nbray.wire.link`), and then a MessagePack list of
:data:`nbray.wire.messages.Message`. A frame of length 0 only tells that number.

Whoever sends bounds: a message is encoded when it is said, so that one which cannot travel fails
where it was said and blocks nothing behind it, and frames are closed before they grow long. A
receiver checks the length before anything is set aside for the body, so a peer that announces
4 GB costs eight bytes; that is its last defence against strangers.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from nbray.wire.messages import Message

HEADER = struct.Struct("<II")
_ARRAY_32 = 0xDD
_COUNT = struct.Struct(">I")
_BODY_AT = HEADER.size
_FIRST_AT = _BODY_AT + 5
_EMPTY = bytes(_BODY_AT) + bytes([_ARRAY_32]) + _COUNT.pack(1)
_SPLIT_BYTES = 1 << 20
_NUMBER = (1 << 32) - 1
_encoder = msgspec.msgpack.Encoder()
_messages_of = msgspec.msgpack.Decoder(list[Message]).decode
_read_header, _write_header = HEADER.unpack_from, HEADER.pack_into
_write_count = _COUNT.pack_into


MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not what they should be."""


class FrameError(Exception):
    """The peer broke the protocol; its connection has to be closed."""


class UnsendableError(ValueError):
    """A message cannot travel: it is too large, or holds what MessagePack cannot express.

    Attributes:
        kind: the name of the message's type.
        size: its bytes, if that is what is wrong; else 0.
    """

    def __init__(self, text: str, kind: str = "", size: int = 0) -> None:
        super().__init__(text)
        self.kind = kind
        self.size = size


class FrameWriter:
    """Encodes messages into frames as they are said."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes
        self._roomy = min(max_frame_bytes - _FIRST_AT, _SPLIT_BYTES)
        self._buffer = bytearray(_EMPTY)
        self._count = 0
        self._closed: list[bytearray] = []

    def put(self, message: Message) -> None:
        """Add ``message``.

        Raises:
            UnsendableError: it cannot travel. The writer is as it was before.
        """
        buffer = self._buffer
        start = len(buffer)
        try:
            _encoder.encode_into(message, buffer, -1)
        except Exception as error:
            del buffer[start:]
            self._put_escaped(message, error)
        end = len(buffer)
        if end < self._roomy:  # as most
            self._count += 1
            return
        size = end - start
        if size > self._max - _FIRST_AT:
            del buffer[start:]
            kind = type(message).__name__
            raise UnsendableError(
                f"A {kind} of {size} bytes cannot be sent: a message may have {self._max} bytes "
                "(NBRAY_MAX_FRAME_BYTES). Put large values with nbray.put, and pass their refs.",
                kind, size,
            )  # fmt: skip
        if end > self._max and self._count:
            self._buffer = bytearray(_EMPTY) + buffer[start:]
            del buffer[start:]
            self._close(buffer)
        self._count += 1
        if len(self._buffer) >= _SPLIT_BYTES:
            self._close(self._buffer)
            self._buffer = bytearray(_EMPTY)

    def _put_escaped(self, message: Message, error: Exception) -> None:
        """Encode a message that MessagePack refused: text that is no UTF-8 travels escaped."""
        kind = type(message).__name__
        if not isinstance(error, UnicodeEncodeError):
            raise UnsendableError(f"A {kind} cannot be sent: {error}", kind) from error
        start = len(self._buffer)
        try:
            plain = _escaped(msgspec.to_builtins(message, builtin_types=(bytes, bytearray)))
            _encoder.encode_into(plain, self._buffer, -1)
        except Exception as second:
            del self._buffer[start:]
            raise UnsendableError(f"A {kind} cannot be sent: {second}", kind) from second

    def _close(self, buffer: bytearray) -> None:
        if self._count != 1:  # as it begins
            _write_count(buffer, _BODY_AT + 1, self._count)
        self._closed.append(buffer)
        self._count = 0

    def take(self, received: int) -> list[bytearray]:
        """The frames that are complete now; their headers say how many this side has received."""
        if self._count:
            frame = self._buffer
            self._buffer = bytearray(_EMPTY)
            if self._count != 1:
                _write_count(frame, _BODY_AT + 1, self._count)
            self._count = 0
            if not self._closed:  # as most
                _write_header(frame, 0, len(frame) - _BODY_AT, received & _NUMBER)
                return [frame]
            self._closed.append(frame)
        closed, self._closed = self._closed, []
        for frame in closed:
            _write_header(frame, 0, len(frame) - _BODY_AT, received & _NUMBER)
        return closed


def empty_frame(received: int) -> bytes:
    """A frame without messages, which only tells how many frames its sender has received."""
    return HEADER.pack(0, received & _NUMBER)


def _escaped(value: Any) -> Any:
    """The same tree, in which lone surrogates of texts stand as escapes."""
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return [_escaped(item) for item in value]
        case dict():
            return {_escaped(key): _escaped(item) for key, item in value.items()}
        case _:
            return value


def _decoded(body: bytes | bytearray | memoryview) -> list[Message]:
    try:
        return _messages_of(body)
    except MALFORMED as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> FrameError:
    return FrameError(f"a malformed message: {error}")


class FrameDecoder:
    """Collects received bytes and gives back the messages of every complete frame.

    Attributes:
        received: frames with messages so far.
        received_bytes: how long they were.
        peer_received: what the peer said last of its own `received`, modulo 2**32.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self.received = 0
        self.received_bytes = 0
        self.peer_received = 0
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    def reset(self) -> None:
        """What had come of an incomplete frame is void: it comes again."""
        self._buffer.clear()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take ``data`` and return the messages that are complete now; ``data`` is not kept.

        Raises:
            FrameError: a frame is longer than allowed, or is not a list of messages.
        """
        if self._buffer:
            self._buffer += data
            view = memoryview(self._buffer)
            try:
                messages, end = self._decode(view)
            finally:
                view.release()
            del self._buffer[:end]
            return messages
        size = len(data)
        if size > _BODY_AT:  # nearly always it is one frame
            length, peer_received = _read_header(data)
            if length == size - _BODY_AT and length <= self._max_frame_bytes:
                try:
                    messages = _messages_of(data[_BODY_AT:])
                except MALFORMED as error:
                    raise _malformed(error) from error
                self.peer_received = peer_received
                self.received += 1
                self.received_bytes += length
                return messages
        view = memoryview(data)
        messages, end = self._decode(view)
        if end < len(view):
            self._buffer += view[end:]
        return messages

    def _decode(self, view: memoryview) -> tuple[list[Message], int]:
        """The messages of the complete frames in ``view``, and where those end."""
        messages: list[Message] = []
        start, size = 0, len(view)
        while size - start >= _BODY_AT:
            length, peer_received = _read_header(view, start)
            if length > self._max_frame_bytes:
                raise FrameError(
                    f"a frame of {length} bytes was announced; {self._max_frame_bytes} are allowed"
                )
            end = start + _BODY_AT + length
            if end > size:
                break
            self.peer_received = peer_received
            if length:
                batch = _decoded(view[start + _BODY_AT : end])
                self.received += 1
                self.received_bytes += length
                if messages:
                    messages += batch
                else:
                    messages = batch
            start = end
        return messages, start
