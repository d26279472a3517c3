"""A tunnel: many streams of bytes over one connection that may be lost and made again, sans I/O.

Two layers, one above the other:

* *The road.* What is sent is a sequence of frames. Those that say something are counted, in bytes.
  Each side keeps what it has sent until the other has said that it came (`Kind.ACK`). When the
  connection is lost and another one is there, both tell how many bytes they have, and what is
  missing is sent once more (`resume`). A frame that was cut in two counts as not received. So
  everything arrives once and in order, however often the connection is lost.
* *The streams.* Each has a number, odd where the driver's side opened it, and a window: so many
  bytes may be under way that the other end has not consumed. A stream whose reader stands still
  stops by itself, and none behind it. The window grows where it is used up, within a budget, so
  that one stream can fill a long path.

Bounds. A side holds at most `Limits.unacknowledged` bytes of data that the peer may lack, and of
each stream what its writer has left (`pending`), which whoever reads for it keeps low (`has_room`).
It receives no more than the windows that it gave. A frame is checked before anything is kept of it.

Fairness. Frames of data are cut when they are sent, of one stream after the other; those of bulk
streams only when the others have nothing, so that a call waits behind one frame, not behind a
gigabyte.

What it does not know: time, sockets, who lives. Whoever carries it asks for `ping` now and then,
and gives it up when the peer was away for too long.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview


class TunnelError(ConnectionError):
    """The peer broke the protocol: this tunnel is over."""


class Kind(IntEnum):
    """What a frame is. ``ACK`` and ``PING`` are not counted."""

    OPEN = 1
    OPEN_BULK = 2
    DATA = 3
    CLOSE = 4
    CREDIT = 5
    ACK = 6
    PING = 7
    GOODBYE = 8


@dataclass(frozen=True)
class Limits:
    """The bounds of one side.

    Attributes:
        unacknowledged: bytes of data that are kept until the peer has them.
        window: what may be under way of a new stream.
        largest_window: what it may grow to.
        budget: by how much all windows together may grow.
        pending: so much a stream's writer may leave here before it has to wait.
        part: the longest frame of data.
    """

    unacknowledged: int = 32 << 20
    window: int = 1 << 20
    largest_window: int = 16 << 20
    budget: int = 64 << 20
    pending: int = 1 << 20
    part: int = 64 << 10


# --- what has come --------------------


@dataclass(frozen=True)
class Opened:
    """The peer opened a stream; ``header`` says what for."""

    stream: int
    header: bytes


class Data(NamedTuple):
    """Bytes of a stream; `Tunnel.consumed` is to be told when they have been used."""

    stream: int
    data: memoryview


@dataclass(frozen=True)
class Closed:
    """The peer closed a stream, after all that it sent; nothing more can be sent to it."""

    stream: int
    reason: str


@dataclass(frozen=True)
class HasRoom:
    """The writer of a stream, which had no room, may go on."""

    stream: int


@dataclass(frozen=True)
class Left:
    """The peer has ended the tunnel."""

    reason: str


Event = Opened | Data | Closed | HasRoom | Left

_HEAD = struct.Struct("<BII")
_NUMBER = struct.Struct("<Q")
_LONGEST_TEXT = 4096
_ACK_BYTES = 256 << 10
_UNCOUNTED = (Kind.ACK, Kind.PING)


@dataclass(eq=False)
class _Stream:
    number: int
    bulk: bool
    credit: int
    window: int
    grown: int = 0
    received: int = 0
    consumed: int = 0
    granted: int = 0
    pending: deque[memoryview] = field(default_factory=deque)
    pending_bytes: int = 0
    queued: bool = False
    waits: bool = False
    closing: str | None = None


class Tunnel:
    """One side of a tunnel.

    Args:
        dials: this side is the driver's, whose streams have odd numbers.
        limits: its bounds.
    """

    def __init__(self, dials: bool, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._next = 1 if dials else 2
        self._theirs = 0 if dials else 1
        self._streams: dict[int, _Stream] = {}
        self._ready: deque[_Stream] = deque()
        self._ready_bulk: deque[_Stream] = deque()
        self._kept: deque[tuple[Buffer, ...]] = deque()
        self._kept_bytes = 0
        self._kept_data = 0
        self._to_replay = 0
        self._acknowledged = 0
        self._spare = self._limits.budget
        self._said: deque[tuple[Buffer, ...]] = deque()
        self._urgent: list[bytes] = []
        self._rest = bytearray()
        self._told = 0
        self._latest = 0
        self._events: list[Event] = []
        self.received = 0
        """How many counted bytes have come."""

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def kept(self) -> int:
        """Bytes that the peer may lack."""
        return self._kept_bytes

    @property
    def drained(self) -> bool:
        """Whether all that was said has arrived."""
        return not (self._kept or self._said or any(s.pending for s in self._streams.values()))

    @property
    def has_something(self) -> bool:
        """Whether `take` would give anything."""
        return bool(
            self._urgent or self._to_replay or self._said
            or (self._kept_data < self._limits.unacknowledged
                and (self._ready or self._ready_bulk))
        )  # fmt: skip

    # --- the writers of streams --------------------

    def open(self, header: bytes, bulk: bool = False) -> int:
        """Open a stream; its number."""
        number, self._next = self._next, self._next + 2
        self._streams[number] = self._new(number, bulk)
        self._say(Kind.OPEN_BULK if bulk else Kind.OPEN, number, header)
        return number

    def _new(self, number: int, bulk: bool) -> _Stream:
        window = self._limits.window
        return _Stream(number, bulk, window, window, granted=window)

    def send(self, number: int, data: Buffer) -> bool:
        """Leave bytes of a stream; whether there is room for more (`HasRoom` tells when again).

        What is left for a stream that has been closed is dropped.
        """
        stream = self._streams.get(number)
        if stream is None or stream.closing is not None or not len(data):
            return True
        view = memoryview(data).cast("B")
        stream.pending.append(view)
        stream.pending_bytes += view.nbytes
        self._queue(stream)
        stream.waits = stream.pending_bytes >= self._limits.pending
        return not stream.waits

    def _queue(self, stream: _Stream) -> None:
        if not stream.queued and stream.credit and stream.pending:
            stream.queued = True
            (self._ready_bulk if stream.bulk else self._ready).append(stream)

    def close(self, number: int, reason: str = "", at_once: bool = False) -> None:
        """Close a stream after what was left of it, or ``at_once`` without that."""
        stream = self._streams.get(number)
        if stream is None or stream.closing is not None:
            return
        if at_once:
            stream.pending.clear()
        if stream.pending:
            stream.closing = reason
        else:
            self._end(stream)
            self._say(Kind.CLOSE, number, _text(reason))

    def _end(self, stream: _Stream) -> None:
        del self._streams[stream.number]
        stream.pending.clear()
        self._spare += stream.grown

    def consumed(self, number: int, count: int) -> bool:
        """So many bytes of a stream were used here: as many more may come; whether to say so."""
        stream = self._streams.get(number)
        if stream is None:
            return False
        stream.consumed += count
        due = stream.consumed + stream.window - stream.granted
        if 2 * due < stream.window:
            return False
        extra = min(stream.window, self._limits.largest_window - stream.window, self._spare)
        stream.window += extra
        stream.grown += extra
        self._spare -= extra
        due += extra
        stream.granted += due
        self._say(Kind.CREDIT, number, _NUMBER.pack(due))
        return True

    def goodbye(self, reason: str) -> None:
        """End the tunnel after what was said."""
        self._say(Kind.GOODBYE, 0, _text(reason))

    def ping(self) -> None:
        """Have the peer say what it has received."""
        self._urgent.append(_HEAD.pack(Kind.PING, 0, 0))

    def _say(self, kind: Kind, number: int, payload: bytes) -> None:
        self._said.append((_HEAD.pack(kind, number, len(payload)), payload))

    # --- the carrier --------------------

    def take(self, most: int) -> list[Buffer]:
        """What is to be written now, about ``most`` bytes; kept until the peer has it."""
        out: list[Buffer] = list(self._urgent)
        self._urgent.clear()
        size = 0
        while self._to_replay and size < most:
            frame = self._kept[len(self._kept) - self._to_replay]
            self._to_replay -= 1
            out += frame
            size += _size(frame)
        while self._said and size < most and not self._to_replay:
            frame = self._said.popleft()
            size += self._keep(frame, _size(frame), 0, out)
        if not self._to_replay and not self._said:
            for ready in (self._ready, self._ready_bulk):
                while ready and size < most and self._kept_data < self._limits.unacknowledged:
                    size += self._cut(ready, out)
        return out

    def _keep(self, frame: tuple[Buffer, ...], size: int, data: int, out: list[Buffer]) -> int:
        self._kept.append(frame)
        self._kept_bytes += size
        self._kept_data += data
        out += frame
        return size

    def _cut(self, ready: deque[_Stream], out: list[Buffer]) -> int:
        stream = ready.popleft()
        stream.queued = False
        if not stream.pending:
            return 0
        parts: list[Buffer] = []
        size = 0
        limit = min(self._limits.part, stream.credit)
        while stream.pending and size < limit:
            head = stream.pending[0]
            left = limit - size
            if head.nbytes <= left:
                parts.append(stream.pending.popleft())
                size += head.nbytes
            else:
                parts.append(head[:left])
                stream.pending[0] = head[left:]
                size += left
        stream.credit -= size
        stream.pending_bytes -= size
        frame = (_HEAD.pack(Kind.DATA, stream.number, size), *parts)
        written = self._keep(frame, _HEAD.size + size, size, out)
        if stream.pending:
            self._queue(stream)
        elif stream.closing is not None:
            self._end(stream)
            self._say(Kind.CLOSE, stream.number, _text(stream.closing))
        if stream.waits and 2 * stream.pending_bytes <= self._limits.pending:
            stream.waits = False
            self._events.append(HasRoom(stream.number))
        return written

    def news(self) -> list[Event]:
        """What `take` has brought about."""
        events, self._events = self._events, []
        return events

    def resume(self, peer_received: int) -> None:
        """There is another connection, and the peer has so many bytes: go on from there.

        Raises:
            TunnelError: it cannot have so many.
        """
        self._rest = bytearray()
        self._urgent.clear()
        self._let_go(peer_received)
        self._to_replay = len(self._kept)

    def _let_go(self, received: int) -> None:
        while self._acknowledged < received and self._kept:
            frame = self._kept.popleft()
            size = _size(frame)
            self._acknowledged += size
            self._kept_bytes -= size
            if _kind(frame) == Kind.DATA:
                self._kept_data -= size - _HEAD.size
        if self._acknowledged != received:
            raise TunnelError(f"the peer says that it has {received} bytes, which cannot be")
        self._to_replay = min(self._to_replay, len(self._kept))

    def acknowledge(self, at_once: bool = False) -> None:
        """Say what was received, if it is much or ``at_once``."""
        if self.received - self._told >= (1 if at_once else _ACK_BYTES):
            self._told = self.received
            self._urgent.append(_HEAD.pack(Kind.ACK, 0, 8) + _NUMBER.pack(self.received))

    def feed(self, data: bytes) -> list[Event]:
        """Take received bytes: what has come.

        Raises:
            TunnelError: the peer broke the protocol.
        """
        view = memoryview(data)
        position = self._complete(view) if self._rest else 0
        position += self._take_frames(view[position:])
        self._rest += view[position:]
        self.acknowledge()
        return self.news()

    def _complete(self, view: memoryview) -> int:
        """Take the frame that was cut in two, if ``view`` has the rest of it: how much it used.

        Only that frame is copied, and not all that came behind it.
        """
        rest, used = self._rest, 0
        if len(rest) < _HEAD.size:
            used = min(len(view), _HEAD.size - len(rest))
            rest += view[:used]
            if len(rest) < _HEAD.size:
                return used
        kind, _, length = _HEAD.unpack_from(rest)
        missing = _HEAD.size + _checked(kind, length, self._limits.part) - len(rest)
        rest += view[used : used + missing]
        used = min(len(view), used + missing)
        if self._take_frames(memoryview(rest)):
            self._rest = bytearray()  # what the events show stays as it is
        return used

    def _take_frames(self, view: memoryview) -> int:
        """Take the whole frames that ``view`` begins with: how long they are."""
        position, end = 0, len(view)
        while end - position >= _HEAD.size:
            kind, number, length = _HEAD.unpack_from(view, position)
            _checked(kind, length, self._limits.part)
            begin = position + _HEAD.size
            if end - begin < length:
                break
            payload = view[begin : begin + length]
            position = begin + length
            if kind == Kind.DATA:  # nearly all are
                self.received += _HEAD.size + length
                self._take_data(number, payload)
                continue
            if kind not in _UNCOUNTED:
                self.received += _HEAD.size + length
            self._take_frame(kind, number, payload)
        return position

    def _take_frame(self, kind: int, number: int, payload: memoryview) -> None:
        match kind:
            case Kind.OPEN | Kind.OPEN_BULK:
                if number % 2 != self._theirs or number <= self._latest:
                    raise TunnelError(f"the peer opened stream {number}, which is not its to open")
                self._latest = number
                self._streams[number] = self._new(number, kind == Kind.OPEN_BULK)
                self._events.append(Opened(number, bytes(payload)))
            case Kind.CLOSE:
                stream = self._streams.get(number)
                if stream is not None:
                    self._end(stream)
                    self._events.append(Closed(number, _said(payload)))
            case Kind.CREDIT:
                stream = self._streams.get(number)
                if stream is not None:
                    stream.credit += _number(payload)
                    self._queue(stream)
            case Kind.ACK:
                received = _number(payload)
                if received > self._acknowledged:
                    self._let_go(received)
            case Kind.PING:
                self._told = -1
                self.acknowledge(at_once=True)
            case Kind.GOODBYE:
                self._events.append(Left(_said(payload)))
            case _:
                raise TunnelError(f"a frame of kind {kind}")

    def _take_data(self, number: int, payload: memoryview) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return  # it was closed here, which the peer hears of soon
        stream.received += payload.nbytes
        if stream.received > stream.granted:
            raise TunnelError(f"more came of stream {number} than its window has")
        self._events.append(Data(number, payload))


def _checked(kind: int, length: int, part: int) -> int:
    """The length of a frame, before anything is kept of it.

    Raises:
        TunnelError: it is longer than one may be.
    """
    if length > (part if kind == Kind.DATA else _LONGEST_TEXT):
        raise TunnelError(f"a frame of {length} bytes")
    return length


def _size(frame: Iterable[Buffer]) -> int:
    return sum(len(part) for part in frame)


def _kind(frame: tuple[Buffer, ...]) -> int:
    return int(frame[0][0])


def _number(payload: memoryview) -> int:
    if len(payload) != _NUMBER.size:
        raise TunnelError("a number of another length")
    (number,) = _NUMBER.unpack(payload)
    return int(number)


def _text(reason: str) -> bytes:
    return reason.encode(errors="replace")[:_LONGEST_TEXT]


def _said(payload: memoryview) -> str:
    return bytes(payload).decode(errors="replace")
