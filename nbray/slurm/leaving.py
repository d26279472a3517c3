"""The end of a cluster's jobs, when its head has gone."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from nbray.slurm import commands
from nbray.slurm.homes import ClusterHome, instance_of
from nbray.slurm.queue import Standing, standing

_LOOK_S = 1.0
_LOOKS = 2


def cancel_cluster(home: ClusterHome) -> int:
    """Cancel the jobs of a cluster and forget it; returns how many there were.

    Also from a thread that has an event loop.

    Raises:
        SlurmError: Slurm does not answer, or refuses.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, cancel(home)).result()


def end_cluster(home: ClusterHome, patience_s: float) -> tuple[int, list[str]]:
    """Cancel the jobs of a cluster until there are none.

    A job that was on its way to Slurm when the head ended comes after the first look.

    Returns:
        How many were cancelled, and the ids of those that have not ended in that time.

    Raises:
        SlurmError: Slurm does not answer, or refuses.
    """
    return asyncio.run(_end(home, patience_s))


async def _end(home: ClusterHome, patience_s: float) -> tuple[int, list[str]]:
    deadline = time.monotonic() + patience_s
    seen: set[str] = set()
    quiet = 0
    while True:
        left = await _jobs_of(home)
        seen.update(left)
        quiet = 0 if left else quiet + 1
        if quiet == _LOOKS or time.monotonic() > deadline:
            home.forget()
            return len(seen), left
        await commands.cancel(left)
        await asyncio.sleep(_LOOK_S)


async def _jobs_of(home: ClusterHome) -> list[str]:
    return [
        row.id for row in await commands.jobs()
        if instance_of(row.name, home.name) and standing(row.state) is not Standing.OVER
    ]  # fmt: skip


async def cancel(home: ClusterHome) -> int:
    """As `cancel_cluster`."""
    theirs = await _jobs_of(home)
    await commands.cancel(theirs)
    home.forget()
    return len(theirs)
