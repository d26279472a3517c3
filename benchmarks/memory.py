"""The memory of a cluster, process by process.

USS is what would come back if the process ended; PSS shares out what several map, so the sum
over all processes is what the cluster costs. Pages of shared memory (the object store) are told
apart, since they belong to objects and not to processes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

_ROLES = (
    ("nbray.gcs", "gcs"),
    ("gcs_server", "gcs"),
    ("nbray.core_worker.run.template", "template"),
    ("nbray.raylet", "raylet"),
    ("raylet/raylet", "raylet"),
    ("nbray.dashboard", "dashboard"),
    ("dashboard/agent", "dashboard agent"),
    ("runtime_env/agent", "runtime env agent"),
    ("dashboard.py", "dashboard"),
    ("dashboard", "dashboard"),
    ("log_monitor", "log monitor"),
    ("monitor.py", "autoscaler monitor"),
    ("ray::", "worker"),
    ("default_worker", "worker"),
    ("resource_tracker", "resource tracker"),
)


@dataclass(frozen=True)
class ProcessMemory:
    """One process; all figures in MB.

    Attributes:
        role: what it is in the cluster.
        uss: its private memory.
        pss: its share of everything that it maps, shared memory left out.
        shared: its share of shared memory.
        peak: the most that was resident at once, shared memory included.
        seconds: of a core that it has used so far.
    """

    role: str
    pid: int
    uss: float
    pss: float
    shared: float
    peak: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_tree(pid: int) -> list[ProcessMemory]:
    """The process ``pid``, which is the driver, and all its descendants that still run."""
    driver = psutil.Process(pid)
    found = [_measure(driver, "driver")]
    for process in driver.children(recursive=True):
        try:
            found.append(_measure(process, _role(process)))
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def _role(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    role = next((role for text, role in _ROLES if text in command), process.name())
    parent = process.parent()
    if role == "template" and parent is not None and parent.cmdline() == process.cmdline():
        return "worker"  # a fork of the template
    return role


def _measure(process: psutil.Process, role: str) -> ProcessMemory:
    rollup = _fields(f"/proc/{process.pid}/smaps_rollup")
    status = _fields(f"/proc/{process.pid}/status")
    shared = rollup.get("Pss_Shmem", 0.0)
    return ProcessMemory(
        role, process.pid, rollup["Private_Clean"] + rollup["Private_Dirty"],
        rollup["Pss"] - shared, shared, status["VmHWM"], sum(process.cpu_times()[:2]),
    )  # fmt: skip


def _fields(path: str) -> dict[str, float]:
    """The lines ``Name: N kB`` of a file of /proc, in MB."""
    found = {}
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        parts = value.split()
        if len(parts) == 2 and parts[1] == "kB":
            found[name] = round(int(parts[0]) * 1024 / 1e6, 2)
    return found
