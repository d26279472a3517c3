"""A link: one ordered stream of messages between two processes, whatever becomes of its sockets.

A connection that closes is not a death: cables are cut, and processes stand still for seconds.
So the frames of a link are counted. Each side keeps what it has sent until the other has said, in
the header of any later frame, that it has come. When the socket under a link is lost, the
side that made it connects anew, both tell how many frames they have, and what is missing is sent
once more: everything arrives once and in order.

Who connects sends an `Opening` after its proof of the token: the link's id, who it is, and how
many frames it has received. The answer is an `Answer`. A side that has given a link up does not
know it any more and refuses it.

What a link is not: a judge of who lives. Whoever uses it asks those who know (see `nbray.
core_worker.broken_links`) and ends the link then.

Pure: bytes and messages in, bytes and messages out.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from nbray.wire.frames import FrameDecoder, FrameError, FrameWriter, empty_frame
from nbray.wire.messages import Message

_ID_BYTES = 28
_ACK_FRAMES = 32
_ACK_BYTES = 1 << 20
_WRAP = 1 << 32
_HANDED_OVER = bytes(16)


@dataclass(frozen=True)
class Opening:
    """What the connecting side says of the link that the new socket is to carry.

    Attributes:
        link_id: its id, 16 random bytes.
        known: whether the other side has answered for it before.
        received: how many of its frames the connecting side has.
        worker_id: the connecting process; empty if it has no id yet.
        node_id: the node of that process.
    """

    link_id: bytes
    known: bool = False
    received: int = 0
    worker_id: bytes = b""
    node_id: bytes = b""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(f"<16s?QB{_ID_BYTES}sB{_ID_BYTES}s")
    SIZE: ClassVar[int] = _LAYOUT.size

    def pack(self) -> bytes:
        """The bytes of it."""
        worker, node = self.worker_id[:_ID_BYTES], self.node_id[:_ID_BYTES]
        return self._LAYOUT.pack(
            self.link_id, self.known, self.received, len(worker), worker, len(node), node
        )

    @classmethod
    def unpack(cls, data: bytes) -> Opening:
        """What those bytes say."""
        link_id, known, received, worker_length, worker, node_length, node = cls._LAYOUT.unpack(
            data
        )
        return cls(link_id, known, received, worker[:worker_length], node[:node_length])


def handover(patience_s: float) -> bytes:
    """What a gateway says in place of an opening: a peer's socket comes with these bytes.

    Args:
        patience_s: how long that peer may be away.
    """
    return Opening(_HANDED_OVER, True, int(patience_s)).pack()


def is_handover(opening: Opening) -> bool:
    """Whether it says that; its ``received`` is the patience then."""
    return opening.link_id == _HANDED_OVER


@dataclass(frozen=True)
class Answer:
    """What the accepting side says: whether it has the link, and how many of its frames."""

    accepted: bool
    received: int = 0

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<?Q")
    SIZE: ClassVar[int] = _LAYOUT.size

    def pack(self) -> bytes:
        """The bytes of it."""
        return self._LAYOUT.pack(self.accepted, self.received)

    @classmethod
    def unpack(cls, data: bytes) -> Answer:
        """What those bytes say."""
        return cls(*cls._LAYOUT.unpack(data))


class Link:
    """One side of a link."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._writer = FrameWriter(max_frame_bytes)
        self._decoder = FrameDecoder(max_frame_bytes)
        self._kept: deque[bytearray] = deque()  # sent, and perhaps not received
        self._acknowledged = 0
        self._told = 0
        self._told_bytes = 0
        self.put = self._writer.put
        """Add a message to what is to be sent; see `FrameWriter.put`."""

    @property
    def received(self) -> int:
        """How many frames have come."""
        return self._decoder.received

    def take(self) -> list[bytearray]:
        """The frames that are to be written now. They are kept until the peer has them."""
        decoder = self._decoder
        frames = self._writer.take(decoder.received)
        if frames:
            self._kept.extend(frames)
            self._told, self._told_bytes = decoder.received, decoder.received_bytes
        return frames

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take received bytes: the messages that are complete now.

        Raises:
            FrameError: the peer broke the protocol.
        """
        messages = self._decoder.feed(data)
        if self._kept:
            count = (self._decoder.peer_received - self._acknowledged) % _WRAP
            if count == 1:  # as in a conversation
                self._acknowledged += 1
                self._kept.popleft()
            elif count:
                self._let_go(count)
        return messages

    def _let_go(self, count: int) -> None:
        """The peer has ``count`` frames more; a number from before is a large one here."""
        if count <= len(self._kept):
            self._acknowledged += count
            for _ in range(count):
                self._kept.popleft()

    def acknowledgement(self) -> bytes:
        """A frame that only tells what was received, when the peer should hear; else empty."""
        decoder = self._decoder
        if (
            decoder.received - self._told < _ACK_FRAMES
            and decoder.received_bytes - self._told_bytes < _ACK_BYTES
        ):
            return b""
        self._told, self._told_bytes = decoder.received, decoder.received_bytes
        return empty_frame(decoder.received)

    def resume(self, peer_received: int) -> list[bytearray]:
        """There is another socket, and the peer has so many frames: those it misses, and new ones.

        Raises:
            FrameError: it cannot have so many.
        """
        self._decoder.reset()
        missing = peer_received - self._acknowledged
        if not 0 <= missing <= len(self._kept):
            raise FrameError(
                f"the peer says that it has {peer_received} frames; "
                f"{self._acknowledged} to {self._acknowledged + len(self._kept)} are possible"
            )
        self._let_go(missing)
        self.take()
        return list(self._kept)
