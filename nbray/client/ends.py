"""A stream of a tunnel that ends in a socket here."""

from __future__ import annotations

import asyncio
from typing import cast

from nbray.client.carrier import Carrier

_LOCAL_BYTES = 256 << 10
_LARGE = 16 << 10


class SocketEnd(asyncio.Protocol):
    """A socket whose bytes go through a stream, and those of the stream into it.

    A socket that does not take what comes stops its stream, and a stream that is not taken stops
    the reading of its socket.
    """

    def __init__(self, carrier: Carrier, number: int = 0) -> None:
        self.carrier = carrier
        self.number = number
        self._transport: asyncio.Transport | None = None
        self._early: list[memoryview] = []
        self._gathered: list[memoryview] = []
        self._unused = 0
        self._full = False
        self._over = False

    # --- the socket --------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_LOCAL_BYTES)
        if self._over:
            self._transport.abort()
            return
        self.ready()

    def ready(self) -> None:
        """What came meanwhile may go into the socket."""
        early, self._early = self._early, []
        for data in early:
            self._write(data)

    def data_received(self, data: bytes) -> None:
        """The socket's bytes."""
        if not self.carrier.send(self.number, data) and self._transport is not None:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """The socket takes no more at the moment."""
        self._full = True

    def resume_writing(self) -> None:
        """It does again: what it has taken was used."""
        self._full = False
        unused, self._unused = self._unused, 0
        self.carrier.consumed(self.number, unused)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has gone."""
        self._transport = None
        self._over = True
        self.carrier.close(self.number, str(error or ""))

    # --- the stream --------------------

    def arrived(self, data: memoryview) -> None:
        """Bytes for the socket."""
        if self._transport is None:
            self._early.append(data)
        else:
            self._write(data)

    def _write(self, data: memoryview) -> None:
        if self._gathered:
            self._gathered.append(data)
        elif len(data) >= _LARGE:
            # What came with it goes out with it: each write wakes who reads the socket.
            self._gathered.append(data)
            asyncio.get_running_loop().call_soon(self._write_gathered)
        else:
            self._put([data])

    def _write_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered and self._transport is not None:
            self._put(gathered)

    def _put(self, parts: list[memoryview]) -> None:
        assert self._transport is not None
        self._transport.writelines(parts)
        size = sum(map(len, parts))
        if self._full:
            self._unused += size
        else:
            self.carrier.consumed(self.number, size)

    def has_room(self) -> None:
        """The stream takes more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def closed(self, reason: str) -> None:
        """Nothing more comes; what came still goes into the socket."""
        self._over = True
        self._write_gathered()
        if self._transport is not None:
            self._transport.close()

    def fail(self, reason: str) -> None:
        """There will be no socket."""
        self._over = True
        if self._transport is not None:
            self._transport.abort()
        self.carrier.close(self.number, reason, at_once=True)
