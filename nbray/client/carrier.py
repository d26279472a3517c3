"""A tunnel on asyncio: what carries it at the moment, and the ends of its streams."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from nbray.client.tunnel import (
    Closed,
    Data,
    Event,
    HasRoom,
    Left,
    Opened,
    Tunnel,
    TunnelError,
)
from nbray.common.presence import LAST_WORDS_S

logger = logging.getLogger(__name__)

_WRITE_BYTES = 256 << 10
_UNSENT_BYTES = 128 << 10
PING_S = 3.0
"""How often a side asks for a sign of life; one that is silent for three of them has gone."""

SILENT_S = 3 * PING_S


class StreamEnd(Protocol):
    """Who uses a stream on this side."""

    def arrived(self, data: memoryview) -> None:
        """Bytes have come; `Carrier.consumed` is to be told when they have been used."""

    def closed(self, reason: str) -> None:
        """The other side has closed the stream, or the tunnel is over."""

    def has_room(self) -> None:
        """After `Carrier.send` said that there is no more room: there is again."""


class _Gone:
    """Nobody uses a stream that failed."""

    def arrived(self, data: memoryview) -> None: ...

    def closed(self, reason: str) -> None: ...

    def has_room(self) -> None: ...


_GONE = _Gone()


class Wire(Protocol):
    """A connection as a carrier writes to it."""

    def write(self, parts: list[bytes]) -> None:
        """Queue bytes."""

    def close(self) -> None:
        """End it."""


class TransportWire:
    """A transport of asyncio as a `Wire`."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        # Little is left unsent, here and in the kernel, so that what is urgent waits for little.
        transport.set_write_buffer_limits(_UNSENT_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    def write(self, parts: list[bytes]) -> None:
        """Queue bytes."""
        self._transport.writelines(parts)

    def close(self) -> None:
        """End it."""
        self._transport.abort()


class Carrier:
    """One side of a tunnel, with the wire that carries it, if there is one.

    Args:
        tunnel: the streams.
        on_opened: called with the number and the header of each stream that the peer opens; gives
            its end here.
        on_left: called when the peer has ended the tunnel.
    """

    def __init__(
        self, tunnel: Tunnel, on_opened: Callable[[int, bytes], StreamEnd],
        on_left: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.tunnel = tunnel
        self.wire: Wire | None = None
        self.heard_at = 0.0
        self._on_opened = on_opened
        self._on_left = on_left
        self._ends: dict[int, StreamEnd] = {}
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._full = False

    # --- streams --------------------

    def open(self, header: bytes, end: StreamEnd, bulk: bool = False) -> int:
        """Open a stream for ``end``; its number."""
        number = self.tunnel.open(header, bulk)
        self._ends[number] = end
        self._soon()
        return number

    def send(self, number: int, data: bytes | memoryview) -> bool:
        """Send bytes of a stream; False: the next only after `StreamEnd.has_room`."""
        room = self.tunnel.send(number, data)
        self._soon()
        return room

    def consumed(self, number: int, count: int) -> None:
        """So many bytes of a stream were used."""
        if self.tunnel.consumed(number, count):
            self._soon()

    def close(self, number: int, reason: str = "", at_once: bool = False) -> None:
        """Close a stream; its end hears nothing more."""
        if self._ends.pop(number, None) is not None:
            self.tunnel.close(number, reason, at_once)
            self._soon()

    def end(self, reason: str) -> None:
        """The tunnel is over: all ends are told."""
        self.lose()
        ends, self._ends = self._ends, {}
        for end in ends.values():
            end.closed(reason)

    def goodbye(self, reason: str) -> None:
        """Tell the peer that this side ends the tunnel."""
        self.tunnel.goodbye(reason)
        self._soon()

    def part(self, reason: str) -> None:
        """End the tunnel, of which the peer is told if it takes it soon: it closes the wire then.

        To close it here could cost the peer these words: what it has sent and nobody reads any
        more resets the connection.
        """
        wire = self.wire
        self.tunnel.goodbye(reason)
        self._flush()
        self.wire = None
        if wire is not None:
            self._loop.call_later(LAST_WORDS_S, wire.close)
        self.end(reason)

    # --- the wire --------------------

    def take(self, wire: Wire, peer_received: int) -> None:
        """Go on over ``wire``, whose peer has so many bytes.

        Raises:
            TunnelError: it cannot have.
        """
        self.tunnel.resume(peer_received)
        self.lose()
        self.wire = wire
        self._full = False
        self.heard_at = self._loop.time()
        self._soon()

    def lose(self) -> None:
        """The wire has gone, or is given up."""
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()

    def received(self, data: bytes) -> None:
        """Bytes came over the wire.

        Raises:
            TunnelError: the peer broke the protocol.
        """
        self.heard_at = self._loop.time()
        self._pass_on(self.tunnel.feed(data))
        if self.tunnel.has_something:
            self._soon()

    def look_after(self) -> bool:
        """To be called now and then: whether the peer shows a sign of life."""
        if self.wire is None:
            return False
        self.tunnel.ping()
        self._soon()
        return self._loop.time() - self.heard_at < SILENT_S

    def pause(self) -> None:
        """The wire takes no more at the moment."""
        self._full = True

    def go_on(self) -> None:
        """It does again."""
        self._full = False
        self._soon()

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        while self.wire is not None and not self._full and self.tunnel.has_something:
            parts = self.tunnel.take(_WRITE_BYTES)
            if parts:
                self.wire.write(parts)  # type: ignore[arg-type]
            self._pass_on(self.tunnel.news())

    def _pass_on(self, events: list[Event]) -> None:
        for event in events:
            try:
                self._act(event)
            except Exception as error:  # the peer keeps nothing of what came for the others
                logger.exception("A stream failed: %s", type(event).__name__)
                if not isinstance(event, Left):
                    self._ends.setdefault(event.stream, _GONE)
                    self.close(event.stream, f"it failed there: {error!r}", at_once=True)

    def _act(self, event: Event) -> None:
        ends = self._ends
        match event:
            case Data(number, data):
                end = ends.get(number)
                if end is not None:
                    end.arrived(data)
            case Opened(number, header):
                ends[number] = self._on_opened(number, header)
            case Closed(number, reason):
                end = ends.pop(number, None)
                if end is not None:
                    end.closed(reason)
            case HasRoom(number):
                end = ends.get(number)
                if end is not None:
                    end.has_room()
            case Left(reason):
                self._on_left(reason)


__all__ = ["PING_S", "SILENT_S", "Carrier", "StreamEnd", "TransportWire", "TunnelError", "Wire"]
