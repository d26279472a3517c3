"""A cluster of Slurm for the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.slurm import Slurm, slurm_cluster, why_not


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """Three nodes with two CPUs each, shared by the tests of a module."""
    if reason := why_not():
        pytest.skip(reason)
    with slurm_cluster(3) as running:
        yield running
