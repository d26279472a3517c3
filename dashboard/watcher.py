"""Whether the GCS answers, and the series that it keeps for the graphs.

What tables show is asked by the pages themselves, while somebody looks (`parts/cluster.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from nbray.common.history import CLUSTER, COLUMNS, NODE_COLUMNS, History, NodeHistories
from nbray.state.client import RpcError

from .parts.cluster import Cluster

logger = logging.getLogger(__name__)

_PERIOD_S = 2.0
_GCS_SILENCE_S = 60.0


class Watcher:
    """One per process.

    Args:
        cluster: who is asked.
        url: where the dashboard is.
        name: of the cluster.
        folder: where the GCS keeps the series.

    Attributes:
        url: where the dashboard is.
        client: the connection to the GCS; ``cluster`` the name.
        error: why the GCS does not answer; empty while it does.
    """

    def __init__(self, cluster: Cluster, url: str, name: str, folder: Path) -> None:
        self.error = ""
        self.client = cluster.client
        self.cluster = name
        self.url = url
        self._asked = cluster
        self._folder = folder
        self._history: History | None = None
        self._nodes = NodeHistories(folder, NODE_COLUMNS)

    def series(self, node_id: str) -> History | None:
        """The series of a node, or of the cluster for an empty name; None while there is none."""
        if node_id:
            return self._nodes.of(node_id)
        if self._history is None:
            try:
                self._history = History(self._folder / "cluster.series", COLUMNS, CLUSTER, False)
            except FileNotFoundError:
                return None
        return self._history

    async def run(self) -> None:
        """Watch until the GCS has been silent for a minute."""
        heard = time.monotonic()
        while time.monotonic() - heard < _GCS_SILENCE_S:
            began = time.monotonic()
            try:
                await self._asked.nodes()
                self.error = ""
                heard = time.monotonic()
            except RpcError as error:
                if not self.error:
                    logger.warning("The GCS does not answer: %s", error)
                self.error = str(error)
            await asyncio.sleep(max(0.0, began + _PERIOD_S - time.monotonic()))
        logger.error("The GCS was silent for %.0f s; the dashboard leaves.", _GCS_SILENCE_S)
