"""The processes of a cluster: found by their session, and killed as a machine dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil


def processes_of(root: Path) -> list[psutil.Process]:
    """The processes of clusters whose sessions are below ``root``.

    Their command lines are in ``info["cmdline"]``: one that ends meanwhile cannot be asked.

    Args:
        root: the folder of sessions, as `own_sessions` yields it.

    Returns:
        The processes, without those that have ended and wait for their parent.

    Examples:
        >>> from pathlib import Path
        >>> from nbray.testing import processes_of
        >>> processes_of(Path("/there/is/no/session"))
        []
    """
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if any(str(root) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def kill_node(raylet: psutil.Process) -> None:
    """SIGKILL a raylet with its template and its workers, as when a machine loses its power.

    Args:
        raylet: the process of the node's raylet.

    Examples:
        ```python
        import psutil

        import nbray
        from nbray.testing import kill_node, own_sessions, processes_of

        with own_sessions() as root:
            nbray.init(num_cpus=1)
            raylets = [one for one in processes_of(root) if "nbray.raylet" in one.info["cmdline"]]
            kill_node(raylets[0])
            try:
                nbray.get(nbray.remote(abs).remote(-1))
            except nbray.exceptions.LocalRayletDiedError:
                print("the node is gone")
        ```
    """
    kill_all([raylet, *raylet.children(recursive=True)])


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL processes, of which some leave when others have.

    Args:
        processes: what is to be killed, in this order.

    Examples:
        >>> from pathlib import Path
        >>> from nbray.testing import processes_of
        >>> from nbray.testing.processes import kill_all
        >>> kill_all(processes_of(Path("/there/is/no/session")))
    """
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
