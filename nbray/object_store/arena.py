"""One shared mapping per node: anonymous memory that no name in /dev/shm leads to.

The raylet makes it by memfd_create; others open it through ``/proc``, which only the same
user may. It is gone when the last process that maps it ends, whatever killed them.

Who attaches takes a lock on a byte of the file that nobody else takes. The lock belongs to what
was opened, which a mapping keeps open: so it lasts until the last view of this mapping has gone, in
this process and in every fork of it, whatever became of connections and ids. As long as it is
held, the raylet gives nothing to others that the process could read or write.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import weakref
from collections.abc import Callable

from nbray.common.interrupts import finalizer, interrupt_again
from nbray.object_store.private_pages import PrivatePages, address_of

_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid
_CHUNK = 256 << 10
_LEAST_TOUCHED = 1 << 20
_TOUCHED_AT_ONCE = 256
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE

_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@finalizer
def _released(on_release: Callable[[], None]) -> None:
    try:
        on_release()
    except KeyboardInterrupt:
        interrupt_again()


class Arena:
    """The mapping in one process."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self.inode = os.fstat(fd).st_ino
        self._fd = fd
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED)
        self._begin = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._touched = bytearray(-(-size // _CHUNK))
        self._path = ""

    @classmethod
    def create(cls, size: int) -> Arena:
        """A new arena of ``size`` bytes; pages cost memory when they are first written."""
        fd = os.memfd_create("nbray-arena", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return cls(fd, size)

    @classmethod
    def attach(cls, path: str, size: int, holder_id: bytes) -> Arena:
        """Map the arena that another process made; see `is_held`."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_of(holder_id, fcntl.F_RDLCK))
            arena = cls(fd, size)
        finally:
            os.close(fd)  # the mapping, which ends with its last view, has one of its own
        arena._fd, arena._path = -1, path
        return arena

    def is_held(self, holder_id: bytes) -> bool:
        """Whether anybody can still see what was attached under that id."""
        lock = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, _lock_of(holder_id, fcntl.F_WRLCK))
        return bool(_FLOCK.unpack(lock)[0] != fcntl.F_UNLCK)

    @property
    def path(self) -> str:
        """Where other processes of this user open it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def prefault(self, offset: int, size: int) -> None:
        """Get memory for a part of the arena before somebody writes it."""
        os.posix_fallocate(self._fd, offset, size)

    def touch(self, offset: int, size: int) -> None:
        """Get memory for a large block that is about to be written here, and map it, at once.

        The kernel takes half the time that it takes for as many pages one by one.
        """
        if size < _LEAST_TOUCHED:  # others write beside it, and each would map all for itself
            return
        chunk, end = offset // _CHUNK, (offset + size - 1) // _CHUNK + 1
        while (first := self._touched.find(0, chunk, end)) >= 0:
            chunk = self._touched.find(1, first, min(end, first + _TOUCHED_AT_ONCE))
            if chunk < 0:
                chunk = min(end, first + _TOUCHED_AT_ONCE)
            length = min(self.size, chunk * _CHUNK) - first * _CHUNK
            # Without the interpreter's lock, which the method of the mapping would keep. A kernel
            # before 5.14 refuses: then each page comes when it is written.
            _libc.madvise(self._begin + first * _CHUNK, length, _POPULATE_WRITE)
            self._touched[first:chunk] = b"\1" * (chunk - first)

    def view(self, offset: int, size: int) -> memoryview:
        """A writable view of a block."""
        return memoryview(self._map)[offset : offset + size]

    def pinned_view(self, offset: int, size: int, on_release: Callable[[], None]) -> memoryview:
        """A read-only view; ``on_release`` runs when the last array over it has gone.

        It is kept until then, and so may belong to something that ends with it.
        """
        block = (ctypes.c_char * size).from_buffer(self._map, offset)
        weakref.finalize(block, _released, on_release).atexit = False
        return memoryview(block).cast("B").toreadonly()

    def private(self, view: memoryview) -> PrivatePages | None:
        """The same bytes, writable for this process alone.

        Args:
            view: what was read in place; kept as long as the pages are.

        Returns:
            None for memory of another place, or if the raylet that made the arena has gone.
        """
        offset = address_of(view) - self._begin
        if not (0 <= offset <= self.size - view.nbytes and PrivatePages.available()):
            return None
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return PrivatePages(fd, offset, view)
        finally:
            os.close(fd)


def _lock_of(holder_id: bytes, kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, int.from_bytes(holder_id[:7]), 1, 0)


def map_file(path: str, offset: int, size: int, *, writable: bool = False) -> memoryview:
    """A view of a part of a file; unmapped when the last array over it has gone.

    Args:
        path: the file.
        offset: a multiple of the page size.
        size: bytes; what is written must have its place on the disk already.
        writable: the view is to be filled.
    """
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, access, offset=offset))
    finally:
        os.close(fd)
