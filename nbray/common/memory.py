"""The memory of the machine, as its kernel and its cgroups tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Usage:
    """Bytes of memory that are used, and that there are."""

    used: int
    total: int


class MemoryReader:
    """What the machine, the cgroup of this process, or the node's own limit leaves.

    Args:
        limit: bytes that the node's processes may use together; 0: no limit of their own.
        root: where the cgroups are mounted.
    """

    def __init__(self, limit: int, root: Path = Path("/sys/fs/cgroup")) -> None:
        self._limit = limit
        self._group = _cgroup(root)

    def read(self, pids: Sequence[int]) -> Usage:
        """The tightest of the limits; ``pids`` are the node's processes."""
        memory = psutil.virtual_memory()
        found = [Usage(memory.total - memory.available, memory.total)]
        if self._group is not None:
            found.append(self._read_group(*self._group))
        if self._limit:
            found.append(Usage(sum(private_bytes(pid) for pid in pids), self._limit))
        return max(found, key=lambda usage: usage.used / usage.total)

    def total(self) -> int:
        """Bytes of memory that there are: of the machine or the cgroup, whichever is less."""
        found = [psutil.virtual_memory().total]
        if self._group is not None:
            folder, _, limit, _ = self._group
            text = (folder / limit).read_text().strip()
            if text != "max":
                found.append(int(text))
        return min(found)

    def _read_group(self, folder: Path, usage: str, limit: str, cache: str) -> Usage:
        total = (folder / limit).read_text().strip()
        if total == "max" or int(total) >= _NO_LIMIT:
            return Usage(0, 1)
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
        used = int((folder / usage).read_text()) - int(statistics.get(cache, 0))
        return Usage(used, max(1, int(total)))


def _cgroup(root: Path) -> tuple[Path, str, str, str] | None:
    """The folder of this process's memory cgroup, and its files, of version 2 or 1."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            names = "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"
            places = [root / "memory" / path.lstrip("/"), root / "memory"]
        elif not controllers:
            names = "memory.current", "memory.max", "inactive_file"
            places = [root / path.lstrip("/"), root]
        else:
            continue
        for place in places:  # in a container, its own cgroup is mounted as the root
            if all((place / name).exists() for name in names[:2]):
                return place, *names
    return None


def private_bytes(pid: int) -> int:
    """What would be free if the process ended; the shared arena is not counted."""
    try:
        memory = psutil.Process(pid).memory_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(memory.rss - memory.shared)
