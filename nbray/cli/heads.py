"""``nbray rsync-up``, ``monitor``, ``get-head-ip`` and others that look at a cluster of a file."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import click

from nbray.cli.target import FILE, NAME, Target, clear_errors
from nbray.cli.terminal import CliError, say
from nbray.machines import cluster_file, remote
from nbray.machines.here import Here
from nbray.machines.hosts import Host
from nbray.machines.mounts import ends, of_this_machine
from nbray.machines.provider import provider_of


@click.command("rsync-up")
@FILE
@click.argument("source", required=False)
@click.argument("target", required=False)
@click.option("-A", "--all-nodes", is_flag=True, help="To all machines, not only to the head.")
@NAME
@clear_errors
def rsync_up(
    file: Path, source: str | None, target: str | None, all_nodes: bool, cluster_name: str | None
) -> None:
    """Copy SOURCE of this machine to TARGET on the head; the file_mounts without both."""
    _rsync(file, cluster_name, source, target, all_nodes, up=True)


@click.command("rsync-down")
@FILE
@click.argument("source", required=False)
@click.argument("target", required=False)
@NAME
@clear_errors
def rsync_down(
    file: Path, source: str | None, target: str | None, cluster_name: str | None
) -> None:
    """Copy SOURCE on the head to TARGET of this machine; the file_mounts without both."""
    _rsync(file, cluster_name, source, target, False, up=False)


def _rsync(
    file: Path, name: str | None, source: str | None, target: str | None, all_nodes: bool, *,
    up: bool,
) -> None:  # fmt: skip
    if (source is None) != (target is None):
        raise click.UsageError("Give both SOURCE and TARGET, or neither.")
    cluster = Target.of(file, name).cluster
    wanted = cluster.wanted
    hosts = cluster.hosts if all_nodes else cluster.hosts[:1]

    async def run() -> None:
        await asyncio.gather(*(copy(host) for host in hosts))

    async def copy(host: Host) -> None:
        if source is None or target is None:
            if up:
                await host.copy(wanted.file_mounts, wanted.rsync_exclude, wanted.rsync_filter)
            for there, local in {} if up else wanted.file_mounts.items():
                path, here = ends(there, local)
                await host.bring(path, here, wanted.rsync_exclude, wanted.rsync_filter)
        elif up:
            here = of_this_machine(source)
            await host.send(here, target, wanted.rsync_exclude, wanted.rsync_filter)
        else:
            here = of_this_machine(target)
            await host.bring(source, here, wanted.rsync_exclude, wanted.rsync_filter)

    asyncio.run(run())
    say(f"Copied {'to' if up else 'from'} {', '.join(host.machine.name for host in hosts)}.")


@click.command()
@FILE
@click.option("--lines", type=click.IntRange(0), default=100, show_default=True)
@NAME
@clear_errors
def monitor(file: Path, lines: int, cluster_name: str | None) -> None:
    """Follow the logs of the head's GCS and raylet."""
    target = Target.of(file, cluster_name)
    text = remote.in_cluster(
        target.host, f'cd "$s/logs" && exec tail -n {lines} -F gcs.log raylet.log'
    )
    if target.host.container is not None:
        text = target.host.container.inside(text)
    sys.exit(target.call(text, tty=False))


@click.command("get-head-ip")
@FILE
@NAME
@clear_errors
def get_head_ip(file: Path, cluster_name: str | None) -> None:
    """Print the head's address."""
    wanted = cluster_file.read(file, cluster_name)
    provider = wanted.provider
    external = provider.external_head_ip if provider.use_external_head_ip else None
    click.echo(external or provider.head_ip or provider_of(wanted).head().listens_at)


@click.command("get-worker-ips")
@FILE
@NAME
@clear_errors
def get_worker_ips(file: Path, cluster_name: str | None) -> None:
    """Print the workers' addresses, one a line."""
    wanted = cluster_file.read(file, cluster_name)
    addresses = wanted.provider.worker_ips
    if wanted.autoscaling is not None:
        addresses = remote.worker_addresses(Target.of(file, cluster_name).host)
    for address in addresses:
        click.echo(address)


@clear_errors
def forward_dashboard(
    *, file: Path, port: int, remote_port: int | None, cluster_name: str | None
) -> None:
    """Lead a port of this machine to the dashboard of a cluster, until it is interrupted."""
    target = Target.of(file, cluster_name)
    link = remote.login_link(target.host)
    if isinstance(target.host.ssh, Here):
        click.echo(link.url)
        return
    host, there = link.host, remote_port or link.port
    command = target.host.ssh.forward(
        target.host.machine.target, "echo ready; exec cat", [(port, f"{host}:{there}")], False
    )
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise CliError(f"Port {port} was not led to the dashboard (ssh's words are above).")
        say(link.at(f"localhost:{port}"))
        say("The link logs one browser in. Interrupt this command to end the way there.", err=True)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
        else:
            raise CliError(f"The way to the dashboard has ended: ssh left with {code}.")
