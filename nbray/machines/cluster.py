"""A cluster's file, ready to be acted on: its hosts, and what each is to have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import yaml

from nbray.machines import certificates, scaling
from nbray.machines.cluster_file import ClusterFile, ClusterFileError
from nbray.machines.containers import container_of
from nbray.machines.here import Here
from nbray.machines.home import ClusterHome, control_folder
from nbray.machines.hosts import Host
from nbray.machines.mounts import digest, hash_of
from nbray.machines.plan import Machine, Wanted
from nbray.machines.provider import provider_of, worker_count
from nbray.machines.ssh import Ssh

_AT_ONCE = 64


@dataclass
class Cluster:
    """What the commands work with.

    Attributes:
        wanted: the file.
        home: the cluster's folder on this machine.
        hosts: all that the file names and that are to have nodes, the head first.
        said: what there is to tell about their number.
    """

    wanted: ClusterFile
    home: ClusterHome
    hosts: list[Host]
    said: str = ""
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    @classmethod
    async def of(
        cls, wanted: ClusterFile, *, login_shells: bool = True, all_workers: bool = False
    ) -> Cluster:
        """Make it.

        Args:
            wanted: the file.
            login_shells: see `Host`.
            all_workers: also those beyond ``min_workers``.

        Raises:
            ClusterFileError: its container cannot be. OSError: there is no place for its folder.
        """
        home = ClusterHome(wanted.cluster_name)
        home.make()
        cluster = cls(wanted, home, [])
        provider = provider_of(wanted)
        count, cluster.said = worker_count(wanted)
        if all_workers:
            count = len(wanted.provider.worker_ips)
        machines = [provider.head(), *await provider.workers(count)]
        cluster.hosts = [cluster.host(machine, login_shells) for machine in machines]
        return cluster

    def host(self, machine: Machine, login_shells: bool = True) -> Host:
        """A machine of this cluster, also one that the file names no more."""
        ssh: Ssh | Here = Here()
        if self.wanted.provider.head_ip:
            ssh = Ssh(self.wanted.auth, self.home.known_hosts, control_folder())
        container = container_of(self.wanted, is_head=machine.is_head)
        return Host(
            machine, ssh, self.wanted.cluster_name, container, login_shells, slots=self._slots
        )

    @asynccontextmanager
    async def at_work(self, what: str) -> AsyncIterator[None]:
        """Change the cluster alone, among all machines that have its file.

        Args:
            what: is done, in a word.

        Raises:
            ClusterBusyError: somebody else does; it names who.
        """
        with self.home.at_work(what) as who:
            async with self.head.held(who):
                yield

    @property
    def head(self) -> Host:
        """The host of the GCS."""
        return self.hosts[0]

    def setup_commands(self, machine: Machine) -> list[str]:
        """What is run where the node runs, before it starts."""
        wanted = self.wanted
        own = wanted.head_setup_commands if machine.is_head else wanted.worker_setup_commands
        return [*wanted.setup_commands, *own]

    def start_commands(self, machine: Machine) -> list[str]:
        """What starts the node."""
        wanted = self.wanted
        return (
            wanted.head_start_ray_commands if machine.is_head else wanted.worker_start_ray_commands
        )

    @property
    def text(self) -> str:
        """The file, with all that it does not say."""
        return yaml.safe_dump(msgspec.to_builtins(self.wanted))

    def described(self) -> list[Wanted]:
        """What each host is to have. Reads all files that are copied.

        Raises:
            ClusterFileError: one is not there, or it has no TLS for nodes that come later.
        """
        wanted = self.wanted
        if isinstance(wanted.tls, str) and scaling.may_grow(wanted):
            raise ClusterFileError(
                "tls: a cluster that grows needs `tls: true`: its head starts nodes, and the "
                f"authority's key in {wanted.tls} does not leave this machine."
            )
        files = hash_of(wanted.file_mounts, wanted.rsync_exclude)
        files = digest(files, wanted.cluster_synced_files)
        return [self._described(host, files) for host in self.hosts]

    def _described(self, host: Host, files: str) -> Wanted:
        machine = host.machine
        before = self.wanted.initialization_commands
        setup = digest(files, before, self.setup_commands(machine), host.login_shells)
        commands = [*self.start_commands(machine), *certificates.described(self.wanted.tls)]
        scaling_file = scaling.described(self.wanted, host) if machine.is_head else ""
        grows = ["grows"] if scaling_file else []
        start = digest([*commands, *grows], self.wanted.provider.head_ip)
        container = "" if host.container is None else host.container.hash
        return Wanted(machine, files, setup, start, container, scaling_file)
