"""Writable memory over a value in the store: only the pages that are written are copied.

A reader's arrays are read-only, since others read the same memory. What a remote cell is sent, it
may change as if it were its own: it gets a private mapping of the same pages. Reading costs
what reading in place costs, writing a copy of the pages that are written. The kernel knows which
those are, so that a change is found without looking at the rest (8 ms for 400 MB).
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from typing import TYPE_CHECKING

from nbray.common.interrupts import finalizer

if TYPE_CHECKING:
    import numpy

_PAGE = mmap.PAGESIZE
_MOST = 20_000  # mappings of a process; the kernel allows 65,530
_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14: all pages at once, and none is copied
_PAGEMAP = "/proc/self/pagemap"
_HERE = 3 << 62  # present, or swapped out
_OF_THE_FILE = 1 << 61

_lock = threading.Lock()
_count = 0


class PrivatePages:
    """A private mapping of a part of a file, which has the bytes of ``original``.

    Attributes:
        view: the memory, writable.
        address: where it begins.
        original: what it was made of.
    """

    def __init__(self, fd: int, offset: int, original: memoryview) -> None:
        global _count
        start = offset // _PAGE * _PAGE
        self._lead = offset - start
        self._map = mmap.mmap(
            fd, self._lead + original.nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE,
            offset=start,
        )  # fmt: skip
        with _lock:
            _count += 1
        # Arrays over the mapping may outlive this object; what they show is pinned meanwhile.
        weakref.finalize(self._map, _unmapped, original).atexit = False
        with contextlib.suppress(OSError):  # an older kernel looks a page up when it is read
            self._map.madvise(_POPULATE_READ)
        self.view = memoryview(self._map)[self._lead :]
        self.address = address_of(self.view)
        self.original = original

    @staticmethod
    def available() -> bool:
        """Whether this process may have another mapping."""
        return _count < _MOST

    def changed(self) -> bool:
        """Whether a byte of it is another one than in ``original``."""
        import numpy  # here and below: most programs have it, and no start waits for it

        mine = numpy.frombuffer(self.view, numpy.uint8)
        theirs = numpy.frombuffer(self.original, numpy.uint8)
        written = self._written()
        if written is None:
            return not numpy.array_equal(mine, theirs)
        for page in written:
            begin = max(0, int(page) * _PAGE - self._lead)
            end = (int(page) + 1) * _PAGE - self._lead
            if not numpy.array_equal(mine[begin:end], theirs[begin:end]):
                return True
        return False

    def _written(self) -> numpy.ndarray | None:
        """The numbers of the pages that have been copied; None: the kernel does not tell."""
        import numpy

        start = self.address - self._lead
        count = -(-(self._lead + self.view.nbytes) // _PAGE)
        try:
            with open(_PAGEMAP, "rb", buffering=0) as pagemap:
                pagemap.seek(start // _PAGE * 8)
                entries = numpy.frombuffer(pagemap.read(count * 8), numpy.uint64)
        except OSError:
            return None
        if len(entries) != count:
            return None
        copied = (entries & numpy.uint64(_HERE) != 0) & (entries & numpy.uint64(_OF_THE_FILE) == 0)
        return numpy.flatnonzero(copied)


@finalizer
def _unmapped(_original: memoryview) -> None:
    global _count
    with _lock:
        _count -= 1


def address_of(buffer: memoryview) -> int:
    """Where its memory begins; 0 for none."""
    import numpy

    if not buffer.nbytes:
        return 0
    address: int = numpy.frombuffer(buffer, numpy.uint8).__array_interface__["data"][0]
    return address
