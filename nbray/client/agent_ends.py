"""The ends of an agent's streams on its own machine: the core worker's sockets, and browsers'."""

from __future__ import annotations

import asyncio

import msgspec

from nbray.client.carrier import Carrier
from nbray.client.ends import SocketEnd
from nbray.wire.tunnel_messages import LENGTH, Browse, Read, Stop, Write, purpose_of


class LocalEnd(SocketEnd):
    """A connection of the core worker, which says first what for."""

    _said = b""

    def __init__(self, carrier: Carrier, writes: Writes) -> None:
        super().__init__(carrier)
        self._writes = writes
        self._ticket = 0

    def ready(self) -> None:
        """Nothing comes before it was said."""

    def data_received(self, data: bytes) -> None:
        """The header, then bytes of the stream."""
        if self.number:
            super().data_received(data)
            return
        self._said += data
        if len(self._said) < LENGTH.size:
            return
        end = LENGTH.size + LENGTH.unpack_from(self._said)[0]
        if len(self._said) < end:
            return
        header, rest = self._said[LENGTH.size : end], self._said[end:]
        self._said = b""
        purpose = purpose_of(header)
        if isinstance(purpose, Stop):
            self._writes.stop(purpose.ticket)
            self.fail("")
            return
        if isinstance(purpose, Write):
            if not self._writes.begin(purpose.ticket, self):
                self.fail("")
                return
            self._ticket = purpose.ticket
        self.number = self.carrier.open(header, self, isinstance(purpose, Read | Write))
        if rest:
            super().data_received(rest)

    def connection_lost(self, error: Exception | None) -> None:
        """The core worker has closed it."""
        self._writes.ended(self._ticket)
        super().connection_lost(error)


class Writes:
    """What the driver writes into the store, by ticket, until it has ended or was taken back."""

    def __init__(self) -> None:
        self._going: dict[int, SocketEnd] = {}
        self._stopped: set[int] = set()

    def begin(self, ticket: int, end: SocketEnd) -> bool:
        """One begins; False: it was taken back before."""
        if ticket in self._stopped:
            return False
        self._going[ticket] = end
        return True

    def stop(self, ticket: int) -> None:
        """One is taken back."""
        self._stopped.add(ticket)
        end = self._going.pop(ticket, None)
        if end is not None:
            end.fail("the driver has taken it back")

    def ended(self, ticket: int) -> None:
        """One is over."""
        self._going.pop(ticket, None)


class BrowserEnd(SocketEnd):
    """A connection of a browser of this machine, to the dashboard."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open its stream."""
        header = msgspec.msgpack.encode(Browse())
        self.number = self.carrier.open(header, self, bulk=True)
        super().connection_made(transport)
