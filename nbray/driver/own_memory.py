"""Memory that was read in place, made this process's own: it may be written.

What a process reads from the object store is read-only. `OwnMemory` gives the same bytes in
memory of which only what is written is copied (see `nbray.object_store.private_pages`), and knows
later what has been.
"""

from __future__ import annotations

import bisect
import zlib
from typing import Any

from nbray.core_worker.current import find_core
from nbray.object_store.private_pages import PrivatePages, address_of

__all__ = ["OwnMemory", "address_of"]

Mark = tuple[object, ...]


class OwnMemory:
    """What one piece of work got to write on."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pages: list[PrivatePages] = []

    @property
    def size(self) -> int:
        """Bytes of the store that it made writable."""
        return sum(pages.view.nbytes for pages in self._pages)

    def writable(self, memory: Any) -> memoryview:
        """The bytes of ``memory``, writable: the same memory if it is."""
        view: memoryview = memoryview(memory).cast("B")
        if not view.readonly:
            return view
        core = find_core()
        pages = core.stored.private(view) if core is not None and view.nbytes else None
        if pages is None:
            return memoryview(bytearray(view))
        place = bisect.bisect(self._starts, pages.address)
        self._starts.insert(place, pages.address)
        self._pages.insert(place, pages)
        return pages.view

    def mark(self, buffer: memoryview) -> Mark:
        """What tells later whether the memory has other bytes; cheap for `writable` memory."""
        address = address_of(buffer)
        place = bisect.bisect(self._starts, address) - 1
        if place >= 0:
            pages = self._pages[place]
            inside = address + buffer.nbytes <= pages.address + pages.view.nbytes
            if inside and not pages.changed():
                return "unchanged", address, buffer.nbytes
        return "bytes", buffer.nbytes, zlib.crc32(buffer)
