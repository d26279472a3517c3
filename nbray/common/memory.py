"""How much memory is used, and how much there is, for the memory monitor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from nbray.common.limits import CGROUP_ROOT, MemoryGroup, memory_groups


@dataclass(frozen=True)
class Usage:
    """Bytes of memory that are used, and that there are."""

    used: int
    total: int


class MemoryReader:
    """What the machine, the cgroups of this process, or the node's own limit leaves.

    Args:
        limit: bytes that the node's processes may use together; 0: no limit of their own.
        root: where the cgroups are mounted.
    """

    def __init__(self, limit: int, root: Path = CGROUP_ROOT) -> None:
        self._limit = limit
        self._groups = memory_groups(root)

    def read(self, pids: Sequence[int]) -> Usage:
        """The tightest of the limits; ``pids`` are the node's processes."""
        memory = psutil.virtual_memory()
        found = [Usage(memory.total - memory.available, memory.total)]
        found += [usage for group in self._groups if (usage := _usage_of(group)) is not None]
        if self._limit:
            found.append(Usage(sum(private_bytes(pid) for pid in pids), self._limit))
        return max(found, key=lambda usage: usage.used / usage.total)


def _usage_of(group: MemoryGroup) -> Usage | None:
    limit = group.limit()
    return None if limit is None else Usage(group.used(), limit)


def private_bytes(pid: int) -> int:
    """What would be free if the process ended; the shared arena is not counted."""
    try:
        memory = psutil.Process(pid).memory_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(memory.rss - memory.shared)
