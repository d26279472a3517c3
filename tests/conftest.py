"""Every test has a cluster of its own, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import from_afar
from support.nodes import MB, Far
from support.places import ROOT, is_installed
from support.redis import redis_url
from support.shared_files import no_shared_file_left
from support.terminal import terminal

import nbray
from nbray.testing import cluster as running_cluster
from nbray.testing import own_sessions

__all__ = ["redis_url", "terminal"]

# What is tested is what is installed. The checkout, which has `benchmarks`, is looked at last.
sys.path[:] = [*(entry for entry in sys.path if entry not in ("", str(ROOT))), str(ROOT)]

# A suite that a shell started in the background ignores interrupts, and so would the drivers that
# it interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


# No test asserts how long something takes, and this machine may be busy.
settings.register_profile("nbray", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nbray")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--installed", action="store_true", help="refuse to test a checkout; `make test` says it"
    )


if from_afar.is_wanted():
    from_afar.install()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--installed") and not is_installed():
        raise pytest.UsageError(f"The nbray of {nbray.__file__} is not installed: `make test`.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is slow by itself takes minutes where two at a time share two busy cores."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Kernels and programs import from their current folder first: it is not the checkout."""
    os.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="session", autouse=True)
def slow_starts() -> None:
    """A process of a cluster may take long to start where several tests share two cores."""
    os.environ.setdefault("NBRAY_START_TIMEOUT_S", "60")


@pytest.fixture
def session_root() -> Iterator[Path]:
    """A folder for sessions; afterwards no process and no file of theirs may be left."""
    with no_shared_file_left(), own_sessions() as root:
        yield root


@pytest.fixture
def home(session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, where the command keeps its token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return session_root


@pytest.fixture
def cluster(session_root: Path) -> Path:
    """A cluster with two CPUs and a 200 MB object store."""
    nbray.init(num_cpus=2, object_store_memory=200 << 20, resources={"custom": 1})
    return session_root


@pytest.fixture(scope="module")
def module_cluster() -> Iterator[Path]:
    """As `cluster`, shared by the tests of a module, which have to leave it as they found it."""
    with no_shared_file_left(), running_cluster(object_store_memory=200 << 20) as root:
        yield root


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
