"""``nbray up``, ``down`` and their kin: clusters of many machines out of one file."""

from __future__ import annotations

import asyncio
import functools
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from msgspec.structs import replace

from nbray.cli import kubernetes as of_kubernetes
from nbray.cli.terminal import CliError, SafeConsole, say
from nbray.common.ignoring import ignore
from nbray.machines import cluster_file, remote
from nbray.machines.board import Board, Outcome, show_outcomes
from nbray.machines.cluster import Cluster
from nbray.machines.cluster_file import ClusterFile, ClusterFileError
from nbray.machines.down import down as end_cluster
from nbray.machines.home import ClusterBusyError
from nbray.machines.hosts import Host, HostError
from nbray.machines.kubernetes.cluster_file import is_kubernetes
from nbray.machines.mounts import ends, of_this_machine
from nbray.machines.plan import Restart
from nbray.machines.provider import worker_count
from nbray.machines.up import Facts, look, role_of
from nbray.machines.up import up as carry_out

F = TypeVar("F", bound=Callable[..., Any])


def _ignored(_context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:
        ignore("nbray up", (f"--{str(parameter.name).replace('_', '-')}",))


def _without_effect(*names: str) -> Callable[[F], F]:
    """Options of Ray's that change nothing here: nothing is cached, and no use is reported."""

    def add(command: F) -> F:
        for name in names:
            command = click.option(
                f"--{name}", is_flag=True, hidden=True, expose_value=False, callback=_ignored
            )(command)
        return command

    return add


_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_NAME = click.option("-n", "--cluster-name", help="Instead of the file's cluster_name.")
_YES = click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
_PORTS = click.option("-p", "--port-forward", type=click.IntRange(1, 65535), multiple=True,
                      help="Lead this port to the head's. May be repeated.")  # fmt: skip
_SHELLS = click.option("--use-login-shells/--use-normal-shells", "login_shells", default=True,
                       help="Whether commands see your start-up files of bash.")  # fmt: skip
_SCREEN = click.option("--screen", is_flag=True, help="In a screen on the head.")
_TMUX = click.option("--tmux", is_flag=True, help="In a tmux on the head.")
_START = click.option("--start", is_flag=True, help="Bring the cluster up first.")
_STOP = click.option("--stop", is_flag=True, help="End the cluster afterwards.")


def _clear_errors(command: F) -> F:
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


@click.command()
@_FILE
@click.option("--min-workers", type=click.IntRange(0), help="Instead of the file's.")
@click.option("--max-workers", type=click.IntRange(0), help="Instead of the file's.")
@click.option("--no-restart", is_flag=True, help="Leave nodes alone that run.")
@click.option("--restart-only", is_flag=True, help="Start all nodes anew, without set-up.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@_YES
@_NAME
@_SHELLS
@_without_effect("no-config-cache", "redirect-command-output", "disable-usage-stats")
@_clear_errors
def up(
    file: Path, min_workers: int | None, max_workers: int | None, no_restart: bool,
    restart_only: bool, dry_run: bool, yes: bool, cluster_name: str | None, login_shells: bool,
) -> None:  # fmt: skip
    """Bring the cluster of FILE up, or change what differs from the file.

    All machines are set up and started from here by ssh, at once. The exit code is 1 if one failed.
    """
    if no_restart and restart_only:
        raise click.UsageError("--no-restart and --restart-only exclude each other.")
    wanted = cluster_file.read(file, cluster_name)
    if min_workers is not None:
        wanted = replace(wanted, min_workers=min_workers)
    if max_workers is not None:
        wanted = replace(wanted, max_workers=max_workers)
    restart = (
        Restart.NEVER if no_restart
        else Restart.ALL_WITHOUT_SETUP if restart_only
        else Restart.IF_CHANGED
    )  # fmt: skip
    bring_up(SafeConsole(highlight=False), wanted, restart, login_shells, dry_run, yes)


def bring_up(
    console: SafeConsole, wanted: ClusterFile, restart: Restart = Restart.IF_CHANGED,
    login_shells: bool = True, dry_run: bool = False, yes: bool = True,
) -> None:  # fmt: skip
    """`nbray up`, for the command and the notebook.

    Raises:
        CliError: a machine failed; all is told.
    """

    async def run() -> list[Outcome]:
        began = time.monotonic()
        cluster = await Cluster.of(wanted, login_shells=login_shells)
        if cluster.said:
            console.print(cluster.said, markup=False)
        async with cluster.at_work("up"):
            facts = await look(cluster, restart)
            if dry_run or not (yes or facts.plan.is_empty):
                _tell_plan(console, cluster, facts)
            if dry_run:
                return []
            if not yes and not facts.plan.is_empty and not _may(facts):
                raise CliError("Nothing was done.")
            with Board(console) as board:
                outcomes = await carry_out(cluster, facts, board)
        logs = {one.name: str(cluster.home.log(one.name)) for one in outcomes}
        title = f"Cluster {wanted.cluster_name}, {time.monotonic() - began:.1f} s"
        show_outcomes(console, title, outcomes, logs)
        return outcomes

    _end_by(asyncio.run(run()))


def _tell_plan(console: SafeConsole, cluster: Cluster, facts: Facts) -> None:
    for name, why in facts.plan.failed.items():
        console.print(f"{name}: {why}", markup=False, style="red", soft_wrap=True)
    for node in facts.plan.nodes:
        steps = ", ".join(step.value for step in node.steps) or "nothing to do"
        why = f" ({node.why})" if node.why else ""
        line = f"{node.machine.name}, {role_of(node.machine)}: {steps}{why}"
        console.print(line, markup=False, soft_wrap=True)
    for machine in facts.plan.leaving:
        console.print(f"{machine.name}: end its node (the file names it no more)", markup=False)


def _may(facts: Facts) -> bool:
    if not sys.stdin.isatty():
        raise CliError("Nobody can be asked here: give --yes.")
    what = "Nodes that run will be ended. " if facts.plan.ends_something else ""
    return click.confirm(f"{what}Go on?")


def _end_by(outcomes: Sequence[Outcome]) -> None:
    failed = [one.name for one in outcomes if one.error is not None]
    if failed:
        raise CliError(f"{len(failed)} of {len(outcomes)} failed: {', '.join(failed)}.")


@click.command()
@_FILE
@_YES
@click.option("--workers-only", is_flag=True, help="The head goes on.")
@click.option("--keep-min-workers", is_flag=True, help="Head and min_workers go on.")
@_NAME
@_clear_errors
def down(
    file: Path, yes: bool, workers_only: bool, keep_min_workers: bool, cluster_name: str | None
) -> None:
    """End the cluster of FILE: its nodes on all machines, and nothing else there."""
    wanted = cluster_file.read(file, cluster_name)
    if not yes:
        if not sys.stdin.isatty():
            raise CliError("Nobody can be asked here: give --yes.")
        if not click.confirm(f"End cluster {wanted.cluster_name}?"):
            raise CliError("Nothing was done.")
    kept = worker_count(wanted)[0] if keep_min_workers else None
    take_down(SafeConsole(highlight=False), wanted, workers_only, kept)


def take_down(
    console: SafeConsole, wanted: ClusterFile, workers_only: bool = False, kept: int | None = None
) -> None:
    """`nbray down`, for the command and the notebook.

    Raises:
        CliError: a machine failed; all is told.
    """

    async def run() -> list[Outcome]:
        cluster = await Cluster.of(wanted, all_workers=True)
        async with cluster.at_work("down"):
            with Board(console) as board:
                outcomes = await end_cluster(
                    cluster, board, workers_only=workers_only, keep_workers=kept
                )
        show_outcomes(console, f"Cluster {wanted.cluster_name}", outcomes, {})
        return outcomes

    _end_by(asyncio.run(run()))


@dataclass(frozen=True)
class _Target:
    """A cluster, its file, and the host that is meant."""

    cluster: Cluster
    file: Path
    host: Host

    @classmethod
    def of(cls, file: Path, name: str | None, node_ip: str | None = None) -> _Target:
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


@click.command("exec")
@_FILE
@click.argument("cmd")
@click.option("--run-env", type=click.Choice(["auto", "host", "docker"]), default="auto",
              show_default=True, help="In the container, if there is one.")  # fmt: skip
@_START
@_STOP
@_SCREEN
@_TMUX
@_PORTS
@_NAME
@_SHELLS
@_without_effect("no-config-cache")
@_clear_errors
def exec_command(
    file: Path, cmd: str, run_env: str, start: bool, stop: bool, screen: bool, tmux: bool,
    port_forward: tuple[int, ...], cluster_name: str | None, login_shells: bool,
) -> None:  # fmt: skip
    """Run CMD by a shell on the head; its exit code is this command's."""
    if start:
        bring_up(SafeConsole(highlight=False, stderr=True), cluster_file.read(file, cluster_name))
    target = _Target.of(file, cluster_name)
    if run_env == "docker" and target.host.container is None:
        raise click.UsageError("--run-env=docker: the file has no docker.image.")
    _run(target, cmd, run_env != "host", screen, tmux, stop, port_forward, login_shells)


def _run(
    target: _Target, cmd: str, inside: bool, screen: bool, tmux: bool, stop: bool,
    ports: Sequence[int], login_shells: bool,
) -> None:  # fmt: skip
    """Run a command on the head, and leave with its exit code."""
    if screen and tmux:
        raise click.UsageError("--screen and --tmux exclude each other.")
    if stop and (screen or tmux):
        raise click.UsageError(
            "--stop ends the cluster when the command has ended, for which nobody waits with "
            "--screen or --tmux."
        )
    inside = inside or target.host.container is None
    text = remote.command(
        target.host, cmd, login=login_shells, session=_session(screen, tmux), inside=inside
    )
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    if inside and target.host.container is not None:
        text = target.host.container.inside(text, tty=tty)
    code = target.call(text, tty=tty, ports=ports)
    if (screen or tmux) and not code:
        how = "screen" if screen else "tmux"
        say(f"It runs in a {how} of the head: `nbray attach {target.file} --{how}` shows it.",
            err=True)  # fmt: skip
    if stop:
        take_down(SafeConsole(highlight=False, stderr=True), target.cluster.wanted)
    sys.exit(code)


def _session(screen: bool, tmux: bool) -> str:
    return "screen" if screen else "tmux" if tmux else ""


@click.command()
@_FILE
@_START
@_SCREEN
@_TMUX
@click.option("-N", "--new", is_flag=True, help="A new screen or tmux, not the one that is there.")
@_PORTS
@click.option("--node-ip", help="This machine of the file; the head by default.")
@_NAME
@_without_effect("no-config-cache")
@_clear_errors
def attach(
    file: Path, start: bool, screen: bool, tmux: bool, new: bool, port_forward: tuple[int, ...],
    node_ip: str | None, cluster_name: str | None,
) -> None:  # fmt: skip
    """Open a shell on the head."""
    if start:
        bring_up(SafeConsole(highlight=False, stderr=True), cluster_file.read(file, cluster_name))
    target = _Target.of(file, cluster_name, node_ip)
    text = remote.shell(target.host, _session(screen, tmux), new)
    if target.host.container is not None:
        text = target.host.container.inside(text, tty=True)
    sys.exit(target.call(text, tty=True, ports=port_forward))


@click.command(context_settings={"ignore_unknown_options": True})
@_FILE
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("script_args", nargs=-1)
@_START
@_STOP
@_SCREEN
@_TMUX
@_PORTS
@_NAME
@_without_effect("no-config-cache", "disable-usage-stats")
@_clear_errors
def submit(
    file: Path, script: Path, script_args: tuple[str, ...], start: bool, stop: bool, screen: bool,
    tmux: bool, port_forward: tuple[int, ...], cluster_name: str | None,
) -> None:  # fmt: skip
    """Copy SCRIPT to the head's home and run it there, by the Python that runs the node."""
    if start:
        bring_up(SafeConsole(highlight=False, stderr=True), cluster_file.read(file, cluster_name))
    target = _Target.of(file, cluster_name)
    asyncio.run(_put(target.host, script))
    words = " ".join(shlex.quote(word) for word in script_args)
    cmd = f'"$NBRAY_PYTHON" ~/{shlex.quote(script.name)} {words}'
    _run(target, cmd, True, screen, tmux, stop, port_forward, True)


async def _put(host: Host, script: Path) -> None:
    await host.send(str(script.absolute()), f"~/{script.name}")


@click.command("rsync-up")
@_FILE
@click.argument("source", required=False)
@click.argument("target", required=False)
@click.option("-A", "--all-nodes", is_flag=True, help="To all machines, not only to the head.")
@_NAME
@_clear_errors
def rsync_up(
    file: Path, source: str | None, target: str | None, all_nodes: bool, cluster_name: str | None
) -> None:
    """Copy SOURCE of this machine to TARGET on the head; the file_mounts without both."""
    _rsync(file, cluster_name, source, target, all_nodes, up=True)


@click.command("rsync-down")
@_FILE
@click.argument("source", required=False)
@click.argument("target", required=False)
@_NAME
@_clear_errors
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
    cluster = _Target.of(file, name).cluster
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
@_FILE
@click.option("--lines", type=click.IntRange(0), default=100, show_default=True)
@_NAME
@_clear_errors
def monitor(file: Path, lines: int, cluster_name: str | None) -> None:
    """Follow the logs of the head's GCS and raylet."""
    target = _Target.of(file, cluster_name)
    text = remote.in_cluster(
        target.host, f'cd "$s/logs" && exec tail -n {lines} -F gcs.log raylet.log'
    )
    if target.host.container is not None:
        text = target.host.container.inside(text)
    sys.exit(target.call(text, tty=False))


@click.command("get-head-ip")
@_FILE
@_NAME
@_clear_errors
def get_head_ip(file: Path, cluster_name: str | None) -> None:
    """Print the head's address."""
    provider = cluster_file.read(file, cluster_name).provider
    external = provider.external_head_ip if provider.use_external_head_ip else None
    click.echo(external or provider.head_ip)


@click.command("get-worker-ips")
@_FILE
@_NAME
@_clear_errors
def get_worker_ips(file: Path, cluster_name: str | None) -> None:
    """Print the workers' addresses, one a line."""
    for address in cluster_file.read(file, cluster_name).provider.worker_ips:
        click.echo(address)


@_clear_errors
def forward_dashboard(
    *, file: Path, port: int, remote_port: int | None, cluster_name: str | None
) -> None:
    """Lead a port of this machine to the dashboard of a cluster, until it is interrupted."""
    target = _Target.of(file, cluster_name)
    link = remote.login_link(target.host)
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
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        process.terminate()
