"""Streams into and out of the store of the head node, for a driver that does not map it."""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from nbray.client.carrier import Carrier
from nbray.object_store.arena import Arena
from nbray.wire.tunnel_messages import Read, Write

_PART = 256 << 10
DONE = b"\1"


class Place(Protocol):
    """A part of the store: bytes are written to it and read from it."""

    def write(self, position: int, data: memoryview) -> None:
        """Write at ``position`` of it."""

    def read(self, position: int, size: int) -> bytes | memoryview:
        """Read from ``position`` of it."""

    def close(self) -> None:
        """It is not used any more."""


class _ArenaPlace:
    def __init__(self, view: memoryview) -> None:
        self._view = view

    def write(self, position: int, data: memoryview) -> None:
        self._view[position : position + len(data)] = data

    def read(self, position: int, size: int) -> bytes | memoryview:
        # No copy, though a driver that gives up lets go of the value while some of it is under way:
        # what comes of a stream that it has closed is dropped there, whatever it is by then.
        return self._view[position : position + size]

    def close(self) -> None:
        self._view.release()


class _FilePlace:
    def __init__(self, path: str, offset: int, writable: bool) -> None:
        self._fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        self._offset = offset

    def write(self, position: int, data: memoryview) -> None:
        while len(data):
            written = os.pwrite(self._fd, data, self._offset + position)
            position, data = position + written, data[written:]

    def read(self, position: int, size: int) -> bytes | memoryview:
        return os.pread(self._fd, size, self._offset + position)

    def close(self) -> None:
        os.close(self._fd)


class Store:
    """The store as one driver uses it; its memory is held until `close`.

    Args:
        holder_id: the driver, in whose name the memory is held.
    """

    def __init__(self, holder_id: bytes) -> None:
        self._holder_id = holder_id
        self._arena: Arena | None = None
        self._closed = False
        self.users: set[_StoreEnd] = set()

    def place(self, purpose: Write | Read) -> Place:
        """The place that a stream is about.

        Raises:
            OSError: it cannot be opened. ValueError: it is outside of the store.
        """
        if self._closed:
            raise ValueError("the driver has gone")
        if not purpose.arena_size:
            return _FilePlace(purpose.path, purpose.offset, isinstance(purpose, Write))
        if self._arena is None:
            self._arena = Arena.attach(purpose.path, purpose.arena_size, self._holder_id)
        if not 0 <= purpose.offset <= purpose.offset + purpose.size <= self._arena.size:
            raise ValueError("a place outside of the store")
        return _ArenaPlace(self._arena.view(purpose.offset, purpose.size))

    def close(self) -> None:
        """Nothing is written or read any more."""
        self._closed = True
        for user in list(self.users):
            user.stop()
        self._arena = None


class RefusedEnd:
    """A stream that is closed at once."""

    def arrived(self, data: memoryview) -> None:
        """It is dropped."""

    def closed(self, reason: str) -> None:
        """So it is."""

    def has_room(self) -> None:
        """Nothing is sent."""


class _StoreEnd:
    """A stream that is about a place in the store."""

    def __init__(self, carrier: Carrier, number: int, store: Store, purpose: Write | Read) -> None:
        self._carrier = carrier
        self._number = number
        self._store = store
        self._size = purpose.size
        self._done = 0
        self._place: Place | None = None
        try:
            self._place = store.place(purpose)
            store.users.add(self)
        except (OSError, ValueError) as error:
            asyncio.get_running_loop().call_soon(self._fail, str(error))

    def _fail(self, reason: str) -> None:
        self.stop()
        self._carrier.close(self._number, reason)

    def stop(self) -> None:
        """Touch the store no more."""
        self._store.users.discard(self)
        place, self._place = self._place, None
        if place is not None:
            place.close()

    def closed(self, reason: str) -> None:
        """The driver wants no more of it."""
        self.stop()


class WriteEnd(_StoreEnd):
    """Bytes of the driver, for the store."""

    def arrived(self, data: memoryview) -> None:
        """Write them."""
        if self._place is not None:
            try:
                if self._done + len(data) > self._size:
                    raise ValueError("more bytes than the place has")
                self._place.write(self._done, data)
            except (OSError, ValueError) as error:
                self._fail(str(error))
                return
            self._done += len(data)
            if self._done == self._size:
                self.stop()
                self._carrier.send(self._number, DONE)
        self._carrier.consumed(self._number, len(data))

    def has_room(self) -> None:
        """There is always room for one byte."""


class ReadEnd(_StoreEnd):
    """Bytes of the store, for the driver."""

    def __init__(self, carrier: Carrier, number: int, store: Store, purpose: Read) -> None:
        super().__init__(carrier, number, store, purpose)
        asyncio.get_running_loop().call_soon(self.has_room)

    def arrived(self, data: memoryview) -> None:
        """The driver says nothing."""

    def has_room(self) -> None:
        """Send on, until the stream is full."""
        while self._place is not None and self._done < self._size:
            try:
                data = self._place.read(self._done, min(_PART, self._size - self._done))
                if not len(data):
                    raise OSError("the file is too short")
            except OSError as error:
                self._fail(str(error))
                return
            self._done += len(data)
            if not self._carrier.send(self._number, data):
                break
        if self._place is not None and self._done == self._size:
            self.stop()
            self._carrier.close(self._number)
