"""Parts of a cluster, found and killed by name."""

from __future__ import annotations

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
    name = "nbray.core_worker.run.template"
    return next(child for child in raylet.children() if name in child.cmdline())
