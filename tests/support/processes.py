"""Parts of a cluster, found and killed by name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from nbray.testing import processes_of, wait_until


def running(root: Path, part: str) -> list[psutil.Process]:
    """The processes of that part of the cluster: "nbray.gcs", "nbray.raylet"."""
    return [process for process in processes_of(root) if part in process.info["cmdline"]]


def kill_gcs(root: Path) -> None:
    """Kill the GCS, waiting for one that is just coming back."""
    wait_until(lambda: running(root, "nbray.gcs"), "a GCS to kill")
    for process in running(root, "nbray.gcs"):
        process.kill()


def template_of(raylet: psutil.Process) -> psutil.Process:
    """The process whose forks are the workers of a raylet."""
    for child in raylet.children():
        with suppress(psutil.NoSuchProcess):  # another child, which has just ended
            if "nbray.core_worker.run.template" in child.cmdline():
                return child
    raise AssertionError("the raylet has no template")
