"""Where the machines of a cluster come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nbray.machines import here
from nbray.machines.cluster_file import ClusterFile
from nbray.machines.plan import Machine


class NodeProvider(Protocol):
    """A source of machines: a list, a queue of batch jobs, a cloud."""

    def head(self) -> Machine:
        """The machine of the head."""

    async def workers(self, count: int) -> Sequence[Machine]:
        """So many machines for workers, those that are there first; fewer if there are no more."""

    async def release(self, machines: Sequence[Machine]) -> None:
        """Give machines back whose nodes have ended."""


class LocalProvider:
    """The machines that the file names: they run already, and stay."""

    def __init__(self, wanted: ClusterFile) -> None:
        self._given = wanted.provider

    def head(self) -> Machine:
        """The machine of ``head_ip``."""
        return Machine(self._given.head_ip, True, self._given.external_head_ip or "")

    async def workers(self, count: int) -> Sequence[Machine]:
        """The first of ``worker_ips``."""
        return [Machine(address) for address in self._given.worker_ips[:count]]

    async def release(self, machines: Sequence[Machine]) -> None:
        """Nothing: they are not ours."""


class SlurmProvider:
    """The machine of the head, which submits jobs: the workers are its autoscaler's matter."""

    def __init__(self, wanted: ClusterFile) -> None:
        self._given = wanted.provider

    def head(self) -> Machine:
        """The machine of ``head_ip``, or this one.

        Raises:
            OSError: there is no way out of this one.
        """
        given = self._given
        if given.head_ip:
            return Machine(given.head_ip, True, given.external_head_ip or "")
        return Machine(here.name(), True, listens_at=here.address(given.interface))

    async def workers(self, count: int) -> Sequence[Machine]:
        """None: jobs are no machines of ours."""
        return []

    async def release(self, machines: Sequence[Machine]) -> None:
        """Nothing."""


def provider_of(wanted: ClusterFile) -> NodeProvider:
    """The provider that a file names."""
    return SlurmProvider(wanted) if wanted.provider.type == "slurm" else LocalProvider(wanted)


def worker_count(wanted: ClusterFile) -> tuple[int, str]:
    """How many workers are started, and what there is to say about that.

    The numbers of the file are capped with the machines that there are, as Ray does. Nodes beyond
    ``min_workers`` come with the demand, for which the autoscaler on the head looks.
    """
    if wanted.autoscaling is not None:
        return 0, ""
    there_are = len(wanted.provider.worker_ips)
    least = there_are if wanted.min_workers is None else wanted.min_workers
    most = there_are if wanted.max_workers is None else wanted.max_workers
    said = ""
    if least > most:
        least, said = most, f"min_workers {least} is more than max_workers: {most} are started."
    if least > there_are:
        least, said = there_are, f"min_workers {least} is more than the worker_ips: {there_are}."
    elif least < min(most, there_are):
        said = (
            f"{least} of {there_are} workers are started (min_workers); up to "
            f"{min(most, there_are)} come and go with the demand."
        )
    return least, said
