"""The end of a cluster's jobs, when its head has gone."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from nbray.slurm import commands
from nbray.slurm.homes import ClusterHome, instance_of
from nbray.slurm.queue import Standing, standing


def cancel_cluster(home: ClusterHome) -> int:
    """Cancel the jobs of a cluster and forget it; returns how many there were.

    Also from a thread that has an event loop.

    Raises:
        SlurmError: Slurm does not answer, or refuses.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, cancel(home)).result()


async def cancel(home: ClusterHome) -> int:
    """As `cancel_cluster`."""
    theirs = [
        row.id for row in await commands.jobs()
        if instance_of(row.name, home.name) and standing(row.state) is not Standing.OVER
    ]  # fmt: skip
    await commands.cancel(theirs)
    home.forget()
    return len(theirs)
