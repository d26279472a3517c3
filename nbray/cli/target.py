"""What all commands on a cluster's file have: its options, its errors, the host that is meant."""

from __future__ import annotations

import asyncio
import functools
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from nbray.cli import kubernetes as of_kubernetes
from nbray.cli.terminal import CliError
from nbray.common.ignoring import ignore
from nbray.machines import cluster_file
from nbray.machines.cluster import Cluster
from nbray.machines.cluster_file import ClusterFileError
from nbray.machines.home import ClusterBusyError
from nbray.machines.hosts import Host, HostError
from nbray.machines.kubernetes.cluster_file import is_kubernetes

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
NAME = click.option("-n", "--cluster-name", help="Instead of the file's cluster_name.")


def _ignored(_context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:
        ignore("nbray up", (f"--{str(parameter.name).replace('_', '-')}",))


def without_effect(*names: str) -> Callable[[F], F]:
    """Options of Ray's that change nothing here: nothing is cached, and no use is reported."""

    def add(command: F) -> F:
        for name in names:
            command = click.option(
                f"--{name}", is_flag=True, hidden=True, expose_value=False, callback=_ignored
            )(command)
        return command

    return add


def clear_errors(command: F) -> F:
    """Have a command tell in a line what a user can mend."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            if is_kubernetes(kwargs["file"]):
                return of_kubernetes.COMMANDS[command.__name__](**kwargs)
            return command(*args, **kwargs)
        except (ClusterFileError, ClusterBusyError, HostError, OSError) as error:
            lines = getattr(error, "lines", ())
            raise CliError("\n  ".join([str(error), *lines])) from error
        except KeyboardInterrupt:
            raise CliError(
                "Interrupted. What was done on the hosts is kept: `nbray up` goes on from there, "
                "`nbray down` ends it."
            ) from None

    return run  # type: ignore[return-value]


@dataclass(frozen=True)
class Target:
    """A cluster, its file, and the host that is meant."""

    cluster: Cluster
    file: Path
    host: Host

    @classmethod
    def of(cls, file: Path, name: str | None, node_ip: str | None = None) -> Target:
        wanted = cluster_file.read(file, name)
        cluster = asyncio.run(Cluster.of(wanted, all_workers=True))
        for host in cluster.hosts:
            if node_ip in (None, host.machine.name):
                return cls(cluster, file, host)
        raise ClusterFileError(f"{node_ip} is no machine of {file}.")

    def call(self, text: str, *, tty: bool, ports: Sequence[int] = ()) -> int:
        """Run a text there with this terminal; its exit code."""
        ssh, target = self.host.ssh, self.host.machine.target
        if ports:
            pairs = [(port, f"localhost:{port}") for port in ports]
            command = ssh.forward(target, text, pairs, tty)
        else:
            command = ssh.command(target, text, tty=tty)
        code = subprocess.call(command)
        if code == 255:
            raise CliError(f"ssh to {target} failed (its own words are above).")
        return code
