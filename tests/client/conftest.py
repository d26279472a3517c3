"""A head node that remote drivers may join, and what stands between it and them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.far_driver import TOKEN, start_far_head

from nbray.common.addresses import split
from nbray.launcher.local import RunningNode
from nbray.testing import Proxy


@pytest.fixture
def head(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNode]:
    """A head node of two CPUs with a gateway; this process knows its token."""
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    node = start_far_head(num_cpus=2, object_store_memory=200 << 20, resources={"custom": 1})
    yield node
    node.stop()


@pytest.fixture
def path(head: RunningNode) -> Iterator[Proxy]:
    """A path to the gateway that can be cut."""
    with Proxy(split(head.client_server)) as proxy:
        yield proxy


@pytest.fixture
def address(path: Proxy) -> str:
    """Where the cluster is, by way of `path`."""
    return f"nbray://{path.place[0]}:{path.place[1]}"
