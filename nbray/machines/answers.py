"""What the head of a file's cluster is at this moment, for who wants to join it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nbray.machines import cluster_file
from nbray.machines.cluster import Cluster
from nbray.machines.found import Found


def running_head(file: Path) -> Found:
    """Ask the head.

    Raises:
        ClusterFileError: the file is none. ConnectionError: the head does not answer, or runs no
            node of the cluster.
    """

    async def ask() -> Found:
        cluster = await Cluster.of(cluster_file.read(file))
        found = await cluster.head.ask()
        if not found.runs:
            why = found.error or f"no node of cluster {cluster.wanted.cluster_name} runs there"
            raise ConnectionError(f"{cluster.head.machine.name}: {why}.")
        return found

    return asyncio.run(ask())
