"""A cluster for one test or for several, which leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbray.driver.driver import init, shutdown
from nbray.testing.processes import kill_all, processes_of
from nbray.testing.waits import wait_until


@contextmanager
def own_sessions() -> Iterator[Path]:
    """A folder of its own for the sessions of all clusters that begin meanwhile.

    At the end this program leaves its cluster, and no process and no folder of theirs may be left.

    Yields:
        The folder.

    Raises:
        AssertionError: something was left after 20 s; it is ended then.

    Examples:
        ```python
        import nbray
        from nbray.testing import own_sessions

        with own_sessions() as root:
            nbray.init(num_cpus=1)
            assert list(root.iterdir())
        ```
    """
    root = Path(tempfile.mkdtemp(prefix="nbt"))
    changed = {"NBRAY_TMPDIR": str(root), "NBRAY_INCLUDE_DASHBOARD": "0"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield root
        shutdown()
        wait_until(lambda: not processes_of(root), "the end of all processes of the test")
        # Whoever ends a cluster removes its folder last, which may be a kernel that leaves.
        wait_until(lambda: not list(root.iterdir()), "the end of the test's session folders")
    finally:
        shutdown()
        kill_all(processes_of(root))
        shutil.rmtree(root, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def cluster(**options: Any) -> Iterator[Path]:
    """A cluster in a folder of its own, of which this process is the driver.

    Args:
        options: arguments of `nbray.init`; two CPUs and a store of 100 MB by default.

    Yields:
        The folder that its session is in.

    Raises:
        AssertionError: a process or a folder of it was left.

    Examples:
        ```python
        import nbray
        from nbray.testing import cluster

        with cluster(num_cpus=1):
            assert nbray.get(nbray.remote(lambda: 42).remote()) == 42
        assert not nbray.is_initialized()
        ```
    """
    with own_sessions() as root:
        init(**({"num_cpus": 2, "object_store_memory": 100 << 20} | options))
        yield root
