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
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nbray.common.threads import ThreadPool
from nbray.raylet.objects.table import Place

logger = logging.getLogger(__name__)

_THREADS = 2
_PAGE = mmap.PAGESIZE
_WRITE_BYTES = 16 << 20
_Result = TypeVar("_Result")


class DiskFullError(Exception):
    """The disk takes no more; the text names it and how full it is."""


class _SpillFile:
    """An open file, how many values in it are still needed, and where the next one would begin."""

    def __init__(self, fd: int, values: int) -> None:
        self.fd = fd
        self.values = values
        self.end = 0


class SpillFiles:
    """All spill files of this node. Its methods belong to the event loop."""

    def __init__(self, folder: Path, capacity_threshold: float) -> None:
        self._folder = folder
        self._capacity_threshold = capacity_threshold
        self._open_file: _SpillFile | None = None
        self._threads = ThreadPool(_THREADS, "spill")

    async def write(self, values: Sequence[memoryview], file_bytes: int) -> list[Place]:
        """Write values into a file of about ``file_bytes``; they must not change meanwhile.

        Raises:
            DiskFullError: there is no room for them. OSError: the disk failed.
        """
        file, offset = await self._take(
            sum(_pages(len(value)) for value in values), len(values), file_bytes
        )
        places = []
        for value in values:
            places.append(Place(file, offset))
            offset += _pages(len(value))
        try:
            await self._run(self._write, file.fd, places, values)
        except BaseException:
            for place in places:
                self.drop(place)
            raise
        return places

    async def _take(self, size: int, count: int, file_bytes: int) -> tuple[_SpillFile, int]:
        """A part of a file for ``count`` values; small parts share one, since each is open."""
        file = self._open_file
        if file is None or file.end + size > file_bytes:
            file = _SpillFile(await self._run(self._new_file, size), 0)
            if size < file_bytes:
                self._open_file = file
        offset = file.end
        file.values += count
        file.end += _pages(size)
        return file, offset

    async def _run(self, function: Callable[..., _Result], *args: Any) -> _Result:
        try:
            work = self._threads.submit(function, *args)
        except RuntimeError as error:  # for whom waits, it is as if the disk had failed
            raise OSError(errno.EAGAIN, str(error)) from error
        return await asyncio.wrap_future(work)

    def _write(self, fd: int, places: list[Place], values: Sequence[memoryview]) -> None:
        size = sum(map(len, values))
        self._check_disk(size)
        try:
            for value, place in zip(values, places, strict=True):
                _write_all(fd, value, place.offset)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(self._fullness(size)) from error
            raise

    def _new_file(self, size: int) -> int:
        """A file without a name.

        Raises:
            DiskFullError: with ``size`` bytes more, the disk is fuller than allowed.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_disk(size)
        fd, path = tempfile.mkstemp(prefix="nbray-spilled-", dir=self._folder)
        os.unlink(path)
        return fd

    def _check_disk(self, size: int) -> None:
        disk = shutil.disk_usage(self._folder)
        if disk.used + size > self._capacity_threshold * (disk.used + disk.free):
            raise DiskFullError(self._fullness(size))

    def _fullness(self, size: int) -> str:
        disk = shutil.disk_usage(self._folder)
        return (
            f"{size / 1e6:.1f} MB do not go to disk: {self._folder} has {disk.free / 1e6:.1f} MB "
            f"free of {disk.total / 1e6:.1f} MB, and is filled to "
            f"{self._capacity_threshold:.0%} at most"
        )

    async def new_value(self, size: int, file_bytes: int) -> Place:
        """A place for a value that a process will write, in a file as of `write`.

        It has its room on the disk, so that whoever maps and writes it is not killed by a full one.

        Raises:
            DiskFullError: there is no room. OSError: the disk failed.
        """
        file, offset = await self._take(size, 1, file_bytes)
        place = Place(file, offset)
        try:
            await self._run(self._reserve, file.fd, place.offset, size)
        except BaseException:
            self.drop(place)
            raise
        return place

    def _reserve(self, fd: int, offset: int, size: int) -> None:
        self._check_disk(size)
        try:
            os.posix_fallocate(fd, offset, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(self._fullness(size)) from error
            raise

    def path(self, place: Place) -> str:
        """Where other processes of this user open the file."""
        return f"/proc/{os.getpid()}/fd/{_file(place).fd}"

    def drop(self, place: Place) -> None:
        """A value is not needed any more; the file goes with the last of them."""
        file = _file(place)
        file.values -= 1
        if not file.values:
            if file is self._open_file:
                self._open_file = None
            try:
                self._threads.submit(os.close, file.fd)  # giving back 100 MB takes a while
            except RuntimeError:  # there is no thread for it
                os.close(file.fd)

    def close(self) -> None:
        """End the threads, when what they write is written."""
        self._threads.shutdown(cancel_futures=True)


def _file(place: Place) -> _SpillFile:
    assert isinstance(place.file, _SpillFile)
    return place.file


def _pages(size: int) -> int:
    return (size + _PAGE - 1) // _PAGE * _PAGE


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    start = 0
    while start < len(data):
        start += os.pwrite(fd, data[start : start + _WRITE_BYTES], offset + start)
