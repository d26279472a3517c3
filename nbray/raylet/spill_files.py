"""The files of spilled values: written and read by threads, gone when nobody needs them.

A file has no name: it is unlinked before its first byte, so whatever ends the raylet leaves
nothing on the disk. Processes of this node map a value by ``/proc``, as they map the arena; a
mapping outlives the file's descriptor here. Every value begins at a page, for the mappings.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from nbray.raylet.store import Place

logger = logging.getLogger(__name__)

_THREADS = 2
_PAGE = mmap.PAGESIZE
_WRITE_BYTES = 16 << 20
_Result = TypeVar("_Result")


class DiskFullError(Exception):
    """The disk takes no more; the text names it and how full it is."""


class _SpillFile:
    """An open file and how many values in it are still needed."""

    def __init__(self, fd: int, values: int) -> None:
        self.fd = fd
        self.values = values


class SpillFiles:
    """All spill files of this node. Its methods belong to the event loop."""

    def __init__(self, folder: Path, capacity_threshold: float) -> None:
        self._folder = folder
        self._capacity_threshold = capacity_threshold
        self._threads = ThreadPoolExecutor(_THREADS, "spill")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:  # each file is a descriptor
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def write(self, values: Sequence[memoryview]) -> list[Place]:
        """Write values into one new file; they must not change meanwhile.

        Raises:
            DiskFullError: there is no room for them. OSError: the disk failed.
        """
        file, offsets = await self._run(self._write, values)
        return [Place(file, offset) for offset in offsets]

    async def _run(self, function: Callable[..., _Result], *args: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _write(self, values: Sequence[memoryview]) -> tuple[_SpillFile, list[int]]:
        offsets = []
        end = 0
        for value in values:
            offsets.append(end)
            end += (len(value) + _PAGE - 1) // _PAGE * _PAGE
        fd = self._new_file(end)
        try:
            for value, offset in zip(values, offsets, strict=True):
                _write_all(fd, value, offset)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(self._fullness(end)) from error
            raise
        return _SpillFile(fd, len(values)), offsets

    def _new_file(self, size: int) -> int:
        """A file without a name.

        Raises:
            DiskFullError: with ``size`` bytes more, the disk is fuller than allowed.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = shutil.disk_usage(self._folder)
        if disk.used + size > self._capacity_threshold * (disk.used + disk.free):
            raise DiskFullError(self._fullness(size))
        fd, path = tempfile.mkstemp(prefix="nbray-spilled-", dir=self._folder)
        os.unlink(path)
        return fd

    def _fullness(self, size: int) -> str:
        disk = shutil.disk_usage(self._folder)
        return (
            f"{size / 1e6:.1f} MB do not go to disk: {self._folder} has {disk.free / 1e6:.1f} MB "
            f"free of {disk.total / 1e6:.1f} MB, and is filled to "
            f"{self._capacity_threshold:.0%} at most"
        )

    async def new_copy(self, size: int) -> Place:
        """An empty file for one value of ``size`` bytes that comes in parts; see `fill`."""
        fd = await self._run(self._new_file, size)
        return Place(_SpillFile(fd, 1), 0)

    async def fill(self, place: Place, offset: int, data: bytes) -> None:
        """Write part of a value.

        Raises:
            DiskFullError: there is no room. OSError: the disk failed.
        """
        try:
            await self._run(_write_all, _file(place).fd, memoryview(data), place.offset + offset)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(self._fullness(len(data))) from error
            raise

    async def read(self, place: Place, offset: int, length: int) -> bytes:
        """Part of a value. Its object must be pinned meanwhile.

        Raises:
            OSError: the disk failed.
        """
        return await self._run(os.pread, _file(place).fd, length, place.offset + offset)

    def path(self, place: Place) -> str:
        """Where other processes of this user open the file."""
        return f"/proc/{os.getpid()}/fd/{_file(place).fd}"

    def drop(self, place: Place) -> None:
        """A value is not needed any more; the file goes with the last of them."""
        file = _file(place)
        file.values -= 1
        if not file.values:
            self._threads.submit(os.close, file.fd)  # giving back 100 MB takes a while

    def close(self) -> None:
        """End the threads, when what they write is written."""
        self._threads.shutdown(cancel_futures=True)


def _file(place: Place) -> _SpillFile:
    assert isinstance(place.file, _SpillFile)
    return place.file


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    start = 0
    while start < len(data):
        start += os.pwrite(fd, data[start : start + _WRITE_BYTES], offset + start)
