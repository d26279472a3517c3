"""Fixtures for pytest: ``pytest_plugins = ["nbray.testing.fixtures"]`` in the first conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbray.testing.cluster import cluster
from nbray.testing.gate import Gate


def pytest_configure(config: pytest.Config) -> None:
    """Say that there is the mark ``nbray``."""
    config.addinivalue_line(
        "markers", "nbray(**options): arguments of nbray.init for the fixture nbray_cluster"
    )


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    mark = request.node.get_closest_marker("nbray")
    return dict(mark.kwargs) if mark is not None else {}


@pytest.fixture
def nbray_cluster(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cluster for one test; its session's folder. A test that leaves a process behind fails."""
    with cluster(**_options(request)) as root:
        yield root


@pytest.fixture(scope="module")
def nbray_module_cluster(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cluster for all tests of a module, which have to leave it as they found it."""
    with cluster(**_options(request)) as root:
        yield root


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A place for tasks to wait at; it is open after the test."""
    found = Gate(tmp_path)
    yield found
    found.open()
