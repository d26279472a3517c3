"""A kernel whose Python has nbray and Ray, and a Ray cluster of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from nbray.common.extras import how_to_install
from nbray.testing import wait_until
from support.kernel import Notebook, running_kernel

FAR = "ray://127.0.0.1:9991"
"""Where Ray's client comes in."""
_MARK = "NBRAY_TEST_RAY_CLUSTER"
PYTHON = os.environ.get("RAY_NOTEBOOK_PYTHON") or sys.executable


def has_both() -> bool:
    """Whether that Python imports both."""
    code = "import ray.util.state, nbray.ray_engine.kernel, ipykernel"
    if not Path(PYTHON).exists():
        return False
    return subprocess.run([PYTHON, "-c", code], capture_output=True, check=False).returncode == 0


@contextmanager
def ray_cluster() -> Iterator[str]:
    """A Ray cluster of two CPUs, by its own command; its address."""
    ray = str(Path(PYTHON).with_name("ray"))
    # Ray's sockets lie below it, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        port = "6399"
        try:
            subprocess.run(
                [ray, "start", "--head", "--num-cpus=2", f"--temp-dir={folder}", f"--port={port}",
                 "--node-ip-address=127.0.0.1", "--ray-client-server-port=9991",
                 "--dashboard-port=8299", "--disable-usage-stats",
                 f"--object-store-memory={200 << 20}"],
                check=True, capture_output=True, timeout=180, env={**os.environ, _MARK: folder},
            )  # fmt: skip
            yield f"127.0.0.1:{port}"
        finally:
            # `ray stop` would end every Ray cluster of this machine.
            wait_until(lambda: not _kill_those_of(folder), "the end of Ray's processes", 60)


def _kill_those_of(folder: str) -> bool:
    """Kill what the cluster has started; whether there was something.

    Workers and agents write their title over their environment: they are known by their parents.
    """
    found = False
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(_MARK) == folder and process.status() != "zombie":
                for one in [*process.children(recursive=True), process]:
                    one.kill()
                found = True
    return found


def _far_is_open() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 9991)) == 0


@contextmanager
def ray_notebook(far: bool = False) -> Iterator[Notebook]:
    """A kernel that is in such a cluster, as a driver of it, or from afar by Ray's client."""
    if not has_both():
        pytest.skip(f"{PYTHON} has not both nbray and Ray: {how_to_install('ray')}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_DEDUP_LOGS", "0")
        with ray_cluster() as address, running_kernel(PYTHON) as notebook:
            assert not notebook.run("%load_ext nbray").error
            if far:
                wait_until(_far_is_open, "Ray's client server", timeout=120)
                address = FAR
            for _ in range(3):  # Ray gives up a driver for its client that is slow to start
                shown = notebook.run(f"%nbray attach --engine ray {address}", timeout=180)
                if "client server failed" not in shown.printed:
                    break
            assert "1 node" in shown.result, (shown.printed, shown.error)
            yield notebook
