"""Parts of a cluster, found and killed by name."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from nbray.testing import processes_of, wait_until
from nbray.testing.processes import kill_all


def running(root: Path, part: str) -> list[psutil.Process]:
    """The processes of that part of the cluster: "nbray.gcs", "nbray.raylet"."""
    return [process for process in processes_of(root) if part in process.info["cmdline"]]


def kill_gcs(root: Path) -> None:
    """Kill the GCS, waiting for one that is just coming back."""
    wait_until(lambda: running(root, "nbray.gcs"), "a GCS to kill")
    kill_all(running(root, "nbray.gcs"))


def template_of(raylet: psutil.Process, gone: int = 0) -> psutil.Process:
    """The process whose forks are the workers of a raylet, once it is there.

    Args:
        raylet: its parent, beside whose children others come and go.
        gone: the pid of one that was killed, and is not meant.
    """
    name, found = "nbray.core_worker.run.template", list[psutil.Process]()

    def is_there() -> bool:
        for child in raylet.children():
            with suppress(psutil.NoSuchProcess):
                if child.pid != gone and name in child.cmdline():
                    found.append(child)
        return bool(found)

    wait_until(is_there, "a template")
    return found[0]


def have_ended(pids: Iterable[int]) -> bool:
    """Whether none of them runs: who has ended may still wait for its parent."""
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True
