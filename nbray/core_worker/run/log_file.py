"""One of a worker's two logs: written by Python here, and by C code and subprocesses beside it."""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

from nbray.common.log_files import Log

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 18
_WRITE_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LogFile:
    """Appends to a log, and finds what others have appended; see `nbray.common.log_files`.

    A log that is empty has no older pieces yet: in a folder with those of thousands of workers,
    looking for some takes longer than the rest of a worker's start.

    Places count from the first byte that was ever written, so that they hold when the log is
    rotated: here, when it is too large after a write, or by the raylet.

    Args:
        path: the log.
        most_bytes: what it may have; 0 for any number.
        pieces_kept: how many older pieces of that size stay beside it.
    """

    def __init__(self, path: str, most_bytes: int = 0, pieces_kept: int = 1) -> None:
        self.path = path
        self._log = Log(Path(path))
        self._folder = os.path.dirname(path)
        self._changed = 0
        self._looked = -1
        self._seen_state = (-1, -1)
        self._most = most_bytes
        self._kept = pieces_kept
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._writer = os.open(path, flags, 0o600)
        self._reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.lseek(self._reader, 0, os.SEEK_END)
        self._base = 0
        if self._size:
            self._base = self._log.base()
        else:
            self._changed = os.stat(self._folder).st_mtime_ns
        self._position = self._base + self._size
        self._own: deque[list[int]] = deque()

    def close(self) -> None:
        """Nothing is written or read here any more."""
        os.close(self._writer)
        os.close(self._reader)

    def end(self) -> int:
        """The place behind what was written last."""
        return self._base + os.fstat(self._reader).st_size

    def write(self, text: str) -> None:
        """Append text that needs not be read back. A full disk loses it, but no task."""
        for start in range(0, len(text), _WRITE_BYTES):  # no copy of all of a long text
            self.append(text[start : start + _WRITE_BYTES].encode("utf-8", "replace"))

    def append(self, data: bytes | memoryview) -> None:
        """Append bytes in the same way."""
        data = memoryview(data)
        while data:
            try:
                written = os.write(self._writer, data[:_WRITE_BYTES])
            except OSError as error:
                if error.errno in _NO_ROOM:
                    return
                raise
            size = os.lseek(self._writer, 0, os.SEEK_CUR)
            self._see(size - written)
            self._size = size
            end = self._base + size
            if self._own and self._own[-1][1] == end - written:
                self._own[-1][1] = end
            else:
                self._own.append([end - written, end])
            data = data[written:]
            if self._most and size > self._most:
                self._rotate()

    def has_grown(self) -> bool:
        """Whether there is something that `read_others` has not seen: a fraction of its cost.

        What others wrote after a rotation may, in theory, be as long as what was there before; that
        is found by the next look.
        """
        return os.lseek(self._reader, 0, os.SEEK_END) != self._looked

    def read_others(self) -> str:
        """What others have appended since the last call, at most 256 KB."""
        found_here = os.fstat(self._reader)
        size, state = found_here.st_size, (found_here.st_size, found_here.st_mtime_ns)
        if state == self._seen_state and self._position == self._base + size:
            return ""  # as after most tasks
        self._seen_state = state
        changed = os.stat(self._folder).st_mtime_ns
        if changed != self._changed:  # perhaps by a rotation, after which others have written
            try:
                base = self._log.base()
            except OSError:  # the task has left no descriptor: it is found by a later look
                return ""
            self._changed, self._base = changed, base
        self._see(size)
        self._size = size
        found = self._others(self._base + size)
        if self._most and size > self._most:
            self._rotate()
        self._looked = size if self._position == self._base + size else -1
        return found.decode("utf-8", "replace")

    def _others(self, end: int) -> bytes:
        found = b""
        while self._position < end and len(found) < _READ_BYTES:
            until = end
            if self._own:
                start, own_end = self._own[0]
                if start <= self._position:
                    self._position = max(self._position, own_end)
                    self._own.popleft()
                    continue
                until = min(end, start)
            part, behind = self._read(min(until - self._position, _READ_BYTES))
            lost = behind - len(part) - self._position
            if lost:
                found += b"\n(%d bytes were written faster than they could be read)\n" % lost
            self._position = behind
            found += part
        return found

    def _read(self, most: int) -> tuple[bytes, int]:
        """From the position on, and the place behind it; what was rotated away is passed."""
        if self._position >= self._base:
            part = os.pread(self._reader, most, self._position - self._base)
            return part, self._position + len(part)
        part, behind = self._log.read(self._position, most)
        if self._position < behind <= self._base:
            return part, behind
        return b"", self._base

    def _see(self, least: int) -> None:
        """The log has so many bytes; if they are fewer than before, it was rotated by others."""
        if least < self._size:
            with suppress(OSError):  # no descriptor is left: what others wrote is shown twice
                self._base = self._log.base()

    def _rotate(self) -> None:
        try:
            self._log.rotate(self._most, self._kept)
        except OSError as error:
            logger.debug("The log %s was not rotated: %s", self.path, error)
            return
        self._base = self._log.base()
        self._size = os.lseek(self._reader, 0, os.SEEK_END)
