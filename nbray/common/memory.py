"""How much memory is used, and how much there is."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbray.common.limits import CGROUP_ROOT, MemoryGroup, memory_groups, slurm_memory

_LIMITS_S = 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


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
        self._limits: list[tuple[MemoryGroup, int]] = []
        self._read_limits = 0.0

    def read(self, pids: Sequence[int]) -> Usage:
        """The tightest of the limits; ``pids`` are the node's processes.

        It is asked four times a second: what the limits of cgroups are is read now and then.
        """
        if time.monotonic() >= self._read_limits:
            self._read_limits = time.monotonic() + _LIMITS_S
            self._limits = [(g, limit) for g in self._groups if (limit := g.limit()) is not None]
        found = [_of_machine(), *(Usage(group.used(), limit) for group, limit in self._limits)]
        if self._limit:
            found.append(Usage(sum(private_bytes(pid) for pid in pids), self._limit))
        return max(found, key=lambda usage: usage.used / usage.total)


def _of_machine() -> Usage:
    with open("/proc/meminfo", "rb") as file:
        head = file.read(200)  # its first lines
    total, available = (_kilobytes(head, name) for name in (b"MemTotal:", b"MemAvailable:"))
    return Usage((total - available) * 1024, total * 1024)


def _kilobytes(text: bytes, name: bytes) -> int:
    return int(text[text.index(name) + len(name) :].split(maxsplit=1)[0])


def private_bytes(pid: int) -> int:
    """What would be free if the process ended; the shared arena is not counted."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return (resident - shared) * _PAGE


def memory_total() -> int:
    """Bytes of memory that there are: of the machine, a cgroup or a job, whichever is least."""
    limits = [limit for group in memory_groups() if (limit := group.limit()) is not None]
    return min([_of_machine().total, *limits, *slurm_memory()])


def memory_free() -> int:
    """Bytes of memory that this process and its children may still take."""
    machine = _of_machine()
    free = [machine.total - machine.used, *slurm_memory()]
    for group in memory_groups():
        limit = group.limit()
        if limit is not None:
            free.append(max(0, limit - group.used()))
    return min(free)
