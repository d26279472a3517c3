"""Every test has a cluster of its own, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import nbray
from nbray.driver.joining import find_session
from nbray.launcher.local import RunningNode, join

MB = 1 << 20
ROOT = Path(__file__).parent.parent
# What is tested is what is installed. The checkout, which has `benchmarks`, is looked at last.
sys.path[:] = [*(entry for entry in sys.path if entry not in ("", str(ROOT))), str(ROOT)]

# A suite that a shell started in the background ignores interrupts, and so would the drivers that
# it interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--installed", action="store_true", help="refuse to test a checkout; `make test` says it"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--installed") and not is_installed():
        raise pytest.UsageError(f"The nbray of {nbray.__file__} is not installed: `make test`.")


def is_installed() -> bool:
    """Whether the nbray that is tested came out of a wheel, and not out of the checkout."""
    return Path(nbray.__file__).is_relative_to(sysconfig.get_path("purelib"))


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Kernels and programs import from their current folder first: it is not the checkout."""
    os.chdir(tmp_path_factory.mktemp("elsewhere"))


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> None:
    """Wait for a condition; fail with ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)


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


@pytest.fixture
def session_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for sessions; afterwards no process and no file of theirs may be left."""
    root = Path(tempfile.mkdtemp(prefix="nbt"))
    monkeypatch.setenv("NBRAY_TMPDIR", str(root))
    monkeypatch.setenv("NBRAY_INCLUDE_DASHBOARD", "0")  # its own tests ask for it
    shared_before = set(os.listdir("/dev/shm"))
    yield root
    nbray.shutdown()
    try:
        wait_until(lambda: not processes_of(root), "the end of all processes of the test")
        # Whoever ends a cluster removes its folder last, which may be a kernel that leaves.
        wait_until(lambda: not list(root.iterdir()), "the end of the test's session folders")
        # A test that runs beside this one may have a file there for a moment.
        wait_until(
            lambda: set(os.listdir("/dev/shm")) <= shared_before, "the end of all files in /dev/shm"
        )
    finally:
        for process in processes_of(root):
            process.kill()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def cluster(session_root: Path) -> Path:
    """A cluster with two CPUs and a 200 MB object store."""
    nbray.init(num_cpus=2, object_store_memory=200 << 20, resources={"custom": 1})
    return session_root


@pytest.fixture(scope="module")
def module_cluster() -> Iterator[Path]:
    """As `cluster`, shared by the tests of a module, which have to leave it as they found it."""
    root = Path(tempfile.mkdtemp(prefix="nbm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBRAY_TMPDIR", str(root))
        patch.setenv("NBRAY_INCLUDE_DASHBOARD", "0")
        nbray.init(num_cpus=2, object_store_memory=200 << 20)
        try:
            yield root
            nbray.shutdown()
            wait_until(lambda: not processes_of(root), "the end of all processes of the module")
        finally:
            nbray.shutdown()
            shutil.rmtree(root, ignore_errors=True)


class Far:
    """Nodes with the resource "far", one at a time, and how to kill one whole."""

    def __init__(self) -> None:
        self._head, self._info = find_session("auto")
        self.node: RunningNode | None = None

    def start(self) -> None:
        self.node = join(
            self._info["gcs_address"], resources={"CPU": 1, "far": 4}, token=self._head.token,
            object_store_memory=100 * MB, fate_shared=True,
        )  # fmt: skip

    def kill(self) -> None:
        """The raylet and its workers, as when a machine loses its power."""
        assert self.node is not None
        raylet = psutil.Process(self.node.children[-1].pid)
        kill_node(raylet)
        self.node.stop()
        self.node = None


@pytest.fixture
def far(session_root: Path) -> Iterator[Far]:
    nbray.init(num_cpus=2, object_store_memory=100 * MB)
    far = Far()
    far.start()
    try:
        yield far
    finally:
        if far.node is not None:
            far.node.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "nbray-test", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)
