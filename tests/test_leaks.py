"""What is made and not wanted any more gives its room back. Each test ends with an empty store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_until

import nbray

MB = 1 << 20


def in_store() -> int:
    """The objects of the node, as the GCS was told last."""
    return int(nbray.nodes()[0]["Stats"].get("objects", -1))


@pytest.fixture(autouse=True)
def emptied(cluster: Path) -> Iterator[None]:
    """The store is empty in the end, of blocks and of room."""
    yield
    wait_until(lambda: in_store() == 0, "the end of all objects")
    wait_until(lambda: nbray.nodes()[0]["Stats"]["store_used"] == 0, "the return of all room")


def test_a_free_does_not_overtake_its_announcement() -> None:
    value = np.zeros(150_000, np.uint8)
    until = time.monotonic() + 2

    def put_large() -> None:
        while time.monotonic() < until:
            nbray.put(value)

    def put_small() -> None:
        while time.monotonic() < until:
            for _ in range(500):
                nbray.put(0)

    threads = [threading.Thread(target=action) for action in (put_large, put_small)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
