"""The logs of this node, for who asks the GCS: their names, and parts of them."""

from __future__ import annotations

import asyncio
import fnmatch
import os
from pathlib import Path

from nbray.wire.state_messages import LogFiles, LogPart, LogsRequest, ReadLog

_BLOCK = 1 << 16


class LogFolder:
    """The log files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def list(self, request: LogsRequest) -> LogFiles:
        """The names that match a pattern, and the sizes in bytes."""
        found = [entry for entry in os.scandir(self._folder) if entry.is_file()]
        return LogFiles(
            {
                entry.name: entry.stat().st_size
                for entry in sorted(found, key=lambda entry: entry.name)
                if fnmatch.fnmatchcase(entry.name, request.pattern)
            }
        )

    async def read(self, request: ReadLog) -> LogPart:
        """The last lines of a log, or what comes after a place in it."""
        if request.name != Path(request.name).name:  # else it could lie anywhere
            return LogPart(b"", 0, missing=True)
        try:
            return await asyncio.to_thread(_read, self._folder / request.name, request)
        except FileNotFoundError:
            return LogPart(b"", 0, missing=True)


def _read(path: Path, request: ReadLog) -> LogPart:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        start = min(request.offset, end)
        if start < 0:
            start = _start_of_lines(file.fileno(), end, request.lines)
        data = os.pread(file.fileno(), min(end - start, request.most_bytes), start)
    return LogPart(data, start + len(data))


def _start_of_lines(descriptor: int, end: int, lines: int) -> int:
    """Where the last ``lines`` lines begin; 0 when there are no more."""
    place, missing = end, lines + 1  # the last line ends by a line break of its own
    while place > 0:
        size = min(_BLOCK, place)
        block = os.pread(descriptor, size, place - size)
        if place == end and not block.endswith(b"\n"):
            missing -= 1
        for index in range(len(block) - 1, -1, -1):
            if block[index] == 10:
                missing -= 1
                if not missing:
                    return place - size + index + 1
        place -= size
    return 0
