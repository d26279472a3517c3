"""The arena of another raylet of this machine, which is read where it lies.

Several nodes on one machine are several arenas in one memory. To copy out of one into another takes
the processor's time of one copy; through a socket it takes three of them, and both raylets.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from hashlib import blake2b

from nbray.common.pids import machine
from nbray.object_store.arena import Arena
from nbray.wire.bulk import MACHINE_BYTES, Place

_STEP = 16 << 20


def machine_id() -> bytes:
    """What processes have in common that may open each other's memory.

    A network namespace counts as a machine of its own, since what stands between two of them is a
    network that somebody has made on purpose.
    """
    text = f"{machine()}/{os.stat('/proc/self/ns/net').st_ino}/{os.geteuid()}"
    return blake2b(text.encode(), digest_size=MACHINE_BYTES).digest()


def place_of(arena: Arena, offset: int) -> Place:
    """Where others of this machine find a block."""
    return Place(arena.path, arena.inode, arena.size, offset)


class Neighbour:
    """That arena, mapped here.

    Raises:
        OSError: it cannot be opened, or is another one by now.
    """

    def __init__(self, place: Place) -> None:
        fd = os.open(place.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if (found.st_ino, found.st_size) != (place.inode, place.size):
                raise FileNotFoundError(f"{place.path} is no arena any more")
            self._map = mmap.mmap(fd, place.size, mmap.MAP_SHARED)
        finally:
            os.close(fd)
        self._size = place.size
        self._begin = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def copy(self, offset: int, target: memoryview) -> None:
        """Write what lies there into ``target``, without the interpreter's lock.

        Raises:
            ValueError: the arena does not reach so far.
        """
        size = len(target)
        if not 0 <= offset <= self._size - size:
            raise ValueError(f"an arena of {self._size} bytes has no {size} at {offset}")
        into = ctypes.addressof(ctypes.c_char.from_buffer(target)) if size else 0
        for start in range(0, size, _STEP):
            source = self._begin + offset + start
            ctypes.memmove(into + start, source, min(_STEP, size - start))
