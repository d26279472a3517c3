"""Values that were read in place, made this process's own: they may be changed.

What a process reads from the object store is read-only. `make_own` gives the same value with memory
that may be written, of which only what is written is copied (see
`nbray.object_store.private_pages`); `OwnMemory` says what has been changed since.
"""

from __future__ import annotations

import bisect
import pickle
import zlib
from typing import Any

from nbray.core_worker.current import find_core
from nbray.core_worker.serialization import dump
from nbray.object_store.private_pages import PrivatePages, address_of

Mark = tuple[object, ...]


class OwnMemory:
    """What one piece of work got to write on."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pages: list[PrivatePages] = []

    def writable(self, view: Any) -> Any:
        """The bytes of ``view``, writable: ``view`` itself if it is."""
        view = memoryview(view).cast("B")
        if not view.readonly:
            return view
        core = find_core()
        pages = core.stored.private(view) if core is not None and view.nbytes else None
        if pages is None:
            return bytearray(view)
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

    def make_own(self, value: Any) -> Any:
        """``value`` with all its memory writable: itself, if it is that already."""
        buffers: list[memoryview] = []

        def out_of_band(buffer: pickle.PickleBuffer) -> bool:
            try:
                buffers.append(buffer.raw())
            except BufferError:  # strided memory, which is copied into the pickle
                return True
            return False

        try:
            stream, _held = dump(value, out_of_band)
        except Exception:  # a value's own code; what cannot be pickled is used as it came
            return value
        if not any(buffer.readonly for buffer in buffers):
            return value
        return pickle.loads(stream, buffers=[self.writable(buffer) for buffer in buffers])
