"""The logs of this node: their names and parts for who asks the GCS, and the bounds they keep."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbray.common.config import Config
from nbray.common.log_files import Log, is_piece
from nbray.wire.state_messages import LogFiles, LogPart, LogsRequest, ReadLog

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
_REST = 100  # looking takes a hundredth of the time at most
_WORKER = "worker-"


@dataclass
class _Found:
    """The files of one worker that has ended."""

    paths: list[Path]
    size: int
    written: float


class LogFolder:
    """The log files in one folder.

    Args:
        folder: where they are.
        config: with their bounds.
        living: the names of the logs of workers that run, without suffix.
    """

    def __init__(self, folder: Path, config: Config, living: Callable[[], set[str]]) -> None:
        self._folder = folder
        self._config = config
        self._living = living

    async def list(self, request: LogsRequest) -> LogFiles:
        """The names that match a pattern, and the sizes in bytes, with older pieces."""
        sizes: dict[str, int] = {}
        for entry in os.scandir(self._folder):
            if entry.is_file() and not entry.name.startswith("."):
                name = entry.name.rpartition(".")[0] if is_piece(entry.name) else entry.name
                sizes[name] = sizes.get(name, 0) + entry.stat().st_size
        return LogFiles(
            {
                name: size
                for name, size in sorted(sizes.items())
                if fnmatch.fnmatchcase(name, request.pattern)
            }
        )

    async def read(self, request: ReadLog) -> LogPart:
        """The last lines of a log, or what comes after a place in it."""
        if request.name != Path(request.name).name:  # else it could lie anywhere
            return LogPart(b"", 0, missing=True)
        try:
            return await asyncio.to_thread(_read, Log(self._folder / request.name), request)
        except FileNotFoundError:
            return LogPart(b"", 0, missing=True)

    async def keep_bounds(self) -> None:
        """Rotate what has grown, and drop the logs of workers that ended long ago; for ever.

        Workers rotate their own logs when they print. Here it is done for what C code and
        subprocesses write while they cannot, and for the logs of the daemons.
        """
        while True:
            began = time.monotonic()
            living = self._living()
            await asyncio.to_thread(self._look, living)
            await asyncio.sleep(max(_LOOK_S, _REST * (time.monotonic() - began)))

    def _look(self, living: set[str]) -> None:
        most = self._config.rotation_max_bytes
        ended: dict[str, _Found] = {}
        for entry in os.scandir(self._folder):
            try:
                found = entry.stat(follow_symlinks=False)
                if most and found.st_size > most * 5 // 4 and not is_piece(entry.name):
                    Log(Path(entry.path)).rotate(most, self._config.rotation_backup_count)
            except OSError as error:
                logger.debug("The log %s was left as it is: %s", entry.name, error)
                continue
            stem = entry.name.lstrip(".").partition(".")[0]
            if stem.startswith(_WORKER) and stem not in living:
                one = ended.setdefault(stem, _Found([], 0, 0.0))
                one.paths.append(Path(entry.path))
                one.size += found.st_size
                one.written = max(one.written, found.st_mtime)
        self._drop(sorted(ended.values(), key=lambda one: one.written, reverse=True))

    def _drop(self, newest_first: Sequence[_Found]) -> None:
        count = size = 0
        for one in newest_first:
            count, size = count + 1, size + one.size
            if (
                count > self._config.ended_worker_logs_kept
                or size > self._config.ended_worker_logs_bytes
            ):
                for path in one.paths:
                    path.unlink(missing_ok=True)


def _read(log: Log, request: ReadLog) -> LogPart:
    place = request.offset if request.offset >= 0 else log.last_lines(request.lines)
    data, behind = log.read(place, request.most_bytes)
    if not log.path.exists():
        raise FileNotFoundError(log.path)
    return LogPart(data, behind)
