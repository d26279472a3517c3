"""The processes of a cluster: found by their session, and killed as a machine dies."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil


def processes_of(root: Path) -> list[psutil.Process]:
    """The processes of clusters whose sessions are below ``root``.

    Their command lines are in ``info["cmdline"]``: one that ends meanwhile cannot be asked.
    """
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if any(str(root) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def kill_node(raylet: psutil.Process) -> None:
    """SIGKILL a raylet with its template and its workers, as when a machine loses its power."""
    for process in [raylet, *raylet.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker leaves when its raylet has
            process.kill()
