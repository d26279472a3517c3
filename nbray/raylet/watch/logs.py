"""The logs of this node: their names and parts for who asks the GCS, and the bounds they keep."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nbray.common.config import Config
from nbray.common.log_files import Log, is_being_written, is_piece
from nbray.wire.state_messages import LogFiles, LogPart, LogsRequest, ReadLog

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
_LONGEST_PAUSE_S = 2.0  # while nothing is written
_REST = 100  # looking takes a hundredth of the time at most
_WORKER = "worker-"
_JOB = "job-driver-"


@dataclass
class _Found:
    """The files of one log."""

    paths: list[Path] = field(default_factory=list)
    size: int = 0
    written: float = 0.0

    def add(self, entry: os.DirEntry[str], found: os.stat_result) -> None:
        """One more of them."""
        self.paths.append(Path(entry.path))
        self.size += found.st_size
        self.written = max(self.written, found.st_mtime)


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
        # else it could lie anywhere, or be the folder
        if not request.name or request.name != Path(request.name).name:
            return LogPart(b"", 0, missing=True)
        try:
            return await asyncio.to_thread(_read, Log(self._folder / request.name), request)
        except FileNotFoundError:
            return LogPart(b"", 0, missing=True)

    async def keep_bounds(self) -> None:
        """Rotate what has grown, and drop logs of workers and jobs that ended long ago; for ever.

        Workers rotate their own logs when they print. Here it is done for what C code and
        subprocesses write while they cannot, and for the logs of the daemons.
        """
        pause, before = _LOOK_S, 0
        while True:
            began = time.monotonic()
            living = self._living()
            size = await asyncio.to_thread(self._look, living)
            pause = min(2 * pause, _LONGEST_PAUSE_S) if size == before else _LOOK_S
            before = size
            await asyncio.sleep(max(pause, _REST * (time.monotonic() - began)))

    def _look(self, living: set[str]) -> int:
        """Do it once; returns how long all of them are together."""
        size = 0
        most = self._config.rotation_max_bytes
        workers: dict[str, _Found] = {}
        jobs: dict[str, _Found] = {}
        for entry in os.scandir(self._folder):
            try:
                found = entry.stat(follow_symlinks=False)
                size += found.st_size
                if most and found.st_size > most * 5 // 4 and not is_piece(entry.name):
                    Log(Path(entry.path)).rotate(most, self._config.rotation_backup_count)
            except OSError as error:
                logger.debug("The log %s was left as it is: %s", entry.name, error)
                continue
            name = entry.name.lstrip(".")
            stem = name.partition(".")[0]
            if stem.startswith(_WORKER) and stem not in living:
                workers.setdefault(stem, _Found()).add(entry, found)
            elif stem.startswith(_JOB):
                log = name.rpartition(".")[0] if is_piece(name) else name
                jobs.setdefault(log, _Found()).add(entry, found)
        kept = self._config
        _drop(workers.values(), kept.ended_worker_logs_kept, kept.ended_worker_logs_bytes)
        _drop(jobs.values(), kept.ended_job_logs_kept, kept.ended_job_logs_bytes)
        return size


def _drop(ended: Iterable[_Found], most: int, most_bytes: int) -> None:
    """Remove the oldest of those that are too many, or too large together."""
    count = size = 0
    for one in sorted(ended, key=lambda one: one.written, reverse=True):
        count, size = count + 1, size + one.size
        if (count > most or size > most_bytes) and not any(map(is_being_written, one.paths)):
            for path in one.paths:
                path.unlink(missing_ok=True)


def _read(log: Log, request: ReadLog) -> LogPart:
    place = request.offset if request.offset >= 0 else log.last_lines(request.lines)
    data, behind = log.read(place, request.most_bytes)
    return LogPart(data, behind, end=log.end())
