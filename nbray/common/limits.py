"""What this process may use of the machine: CPUs and memory, as affinity, cgroups and Slurm say.

A limit of a cgroup holds for all below it, so every level from this process's own group up to the
highest that can be seen counts, of version 2 and of version 1. In a container, its own group is
mounted as the root. Slurm limits by cgroups and affinity where it is configured to; where it is
not, its variables say what the job was given, and to use more would be at the cost of others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60


class Cgroups:
    """The groups of one controller that this process is in, the innermost first.

    Attributes:
        folders: their folders.
        version: 1 or 2; 0 when there are none.
    """

    def __init__(self, controller: str, root: Path = CGROUP_ROOT, own: Path = _OWN_CGROUPS) -> None:
        self.folders: list[Path] = []
        self.version = 0
        for line in own.read_text(errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                names = (controller, controllers)
                mounted = next((root / name for name in names if (root / name).is_dir()), None)
                if mounted is not None:
                    self.folders, self.version = _levels(mounted, path), 1
                    return
            elif not controllers:
                self.folders, self.version = _levels(root, path), 2

    def numbers(self, name: str) -> list[list[str]]:
        """The words of a file in each group that has it."""
        found = []
        for folder in self.folders:
            try:
                found.append((folder / name).read_text().split())
            except OSError:
                continue  # the highest group has few files, and a group may be gone
        return found


def _levels(mounted: Path, path: str) -> list[Path]:
    own = mounted / path.lstrip("/")
    levels = [own, *own.parents]
    return [level for level in levels if level.is_relative_to(mounted) and level.is_dir()]


def cpu_count(
    root: Path = CGROUP_ROOT, own: Path = _OWN_CGROUPS, variables: Mapping[str, str] = os.environ
) -> int:
    """How many CPUs this process may keep busy: whole ones, and at least one."""
    allowed = [float(len(os.sched_getaffinity(0)))]  # a cpuset is a part of it
    allowed += _of_slurm(variables, "SLURM_CPUS_PER_TASK") or _of_slurm(
        variables, "SLURM_CPUS_ON_NODE"
    )
    groups = Cgroups("cpu", root, own)
    if groups.version == 2:
        quotas = [words for words in groups.numbers("cpu.max") if words[0] != "max"]
        allowed += [int(quota) / int(period) for quota, period in quotas]
    else:
        quotas, periods = groups.numbers("cpu.cfs_quota_us"), groups.numbers("cpu.cfs_period_us")
        for (quota,), (period,) in zip(quotas, periods, strict=False):
            if int(quota) > 0:
                allowed.append(int(quota) / int(period))
    return max(1, int(min(allowed)))


def _of_slurm(variables: Mapping[str, str], name: str) -> list[float]:
    """A number that Slurm gives the processes of a job; none where there is no such number."""
    text = variables.get(name, "")
    return [float(text)] if "SLURM_JOB_ID" in variables and text.isdigit() and int(text) else []


def slurm_memory(variables: Mapping[str, str] = os.environ) -> list[int]:
    """Bytes that Slurm gave the job on this node; none without Slurm, or without a limit."""
    whole = _of_slurm(variables, "SLURM_MEM_PER_NODE")
    if not whole:
        each = _of_slurm(variables, "SLURM_MEM_PER_CPU")
        whole = [mb * n for mb in each for n in _of_slurm(variables, "SLURM_CPUS_ON_NODE")]
    return [int(mb) << 20 for mb in whole]


class MemoryGroup:
    """One memory cgroup that has a limit."""

    def __init__(self, folder: Path, version: int) -> None:
        self._folder = folder
        self._usage, self._limit, self._cache = (
            ("memory.current", "memory.max", "inactive_file")
            if version == 2
            else ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file")
        )

    def limit(self) -> int | None:
        """Bytes that its processes may use together; None without a limit."""
        try:
            text = (self._folder / self._limit).read_text().strip()
        except OSError:
            return None  # the highest group has no such file
        return None if text == "max" or int(text) >= _NO_LIMIT else max(1, int(text))

    def used(self) -> int:
        """Bytes that they use, without what the kernel can drop at once."""
        lines = (self._folder / "memory.stat").read_text().splitlines()
        statistics = dict(line.split() for line in lines)
        used = int((self._folder / self._usage).read_text())
        return max(0, used - int(statistics.get(self._cache, 0)))


def memory_groups(root: Path = CGROUP_ROOT, own: Path = _OWN_CGROUPS) -> list[MemoryGroup]:
    """The memory cgroups of this process that may have a limit."""
    groups = Cgroups("memory", root, own)
    return [MemoryGroup(folder, groups.version) for folder in groups.folders]
