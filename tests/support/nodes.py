"""Second nodes: started, and killed as a machine dies."""

from __future__ import annotations

import psutil

from nbray.driver.joining import find_session
from nbray.launcher.local import RunningNode, join
from nbray.testing import kill_node

MB = 1 << 20


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
