"""Frames: bytes in, messages out, without a socket anywhere.

A frame is a little-endian 32-bit length and then a MessagePack list of
:data:`nbray.wire.messages.Message`. The length is checked before anything is set aside
for the body, so a peer that announces 4 GB costs four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from nbray.wire.messages import Message

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Message])


MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not what they should be."""


class FrameError(Exception):
    """The peer broke the protocol; its connection has to be closed."""


def encode_frame(messages: Sequence[Message]) -> bytearray:
    """One frame that holds ``messages`` in order."""
    buffer = bytearray(4)
    _encoder.encode_into(messages, buffer, 4)
    _LENGTH.pack_into(buffer, 0, len(buffer) - 4)
    return buffer


class FrameDecoder:
    """Collects received bytes and gives back the messages of every complete frame."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

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
        view = memoryview(data)
        messages, end = self._decode(view)
        if end < len(view):
            self._buffer += view[end:]
        return messages

    def _decode(self, view: memoryview) -> tuple[list[Message], int]:
        """The messages of the complete frames in ``view``, and where those end."""
        messages: list[Message] = []
        start, size = 0, len(view)
        while size - start >= 4:
            (length,) = _LENGTH.unpack_from(view, start)
            if length > self._max_frame_bytes:
                raise FrameError(
                    f"a frame of {length} bytes was announced; {self._max_frame_bytes} are allowed"
                )
            end = start + 4 + length
            if end > size:
                break
            try:
                batch = _decoder.decode(view[start + 4 : end])
            except MALFORMED as error:
                raise FrameError(f"a malformed message: {error}") from error
            if messages:
                messages += batch
            else:
                messages = batch
            start = end
        return messages, start
