"""Second nodes: started, and killed as a machine dies."""

from __future__ import annotations

from typing import Any

import psutil

from nbray.driver.driver import current_driver
from nbray.driver.joining import find_session
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import RunningNode, join
from nbray.testing import kill_node

MB = 1 << 20


def join_here(
    resources: dict[str, float] | None = None, store: int = 64 * MB, **options: Any
) -> RunningNode:
    """A second node of this driver's cluster on this machine, with one CPU unless it is said."""
    driver = current_driver()
    assert driver is not None
    head, info = find_session(driver.address)
    return join(
        info["gcs_address"],
        NodeOptions({"CPU": 1} | (resources or {}), object_store_memory=store, **options),
        token=head.token, fate_shared=True,
    )  # fmt: skip


class Far:
    """Nodes with the resource "far", one at a time, and how to kill one whole."""

    def __init__(self) -> None:
        self.node: RunningNode | None = None

    def start(self) -> None:
        self.node = join_here({"far": 4}, 100 * MB)

    def kill(self) -> None:
        """The raylet and its workers, as when a machine loses its power."""
        assert self.node is not None
        raylet = psutil.Process(self.node.children[-1].pid)
        kill_node(raylet)
        self.node.stop()
        self.node = None
