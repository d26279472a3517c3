"""``nbray up``, ``down`` and their kin: clusters of many machines out of one file."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec.structs import replace

from nbray.autoscaler import config
from nbray.cli.console import SafeConsole
from nbray.cli.target import FILE, NAME, Target, clear_errors, without_effect
from nbray.cli.terminal import CliError, say
from nbray.machines import cluster_file, remote
from nbray.machines.board import Board, Outcome, show_outcomes
from nbray.machines.cluster import Cluster
from nbray.machines.cluster_file import ClusterFile, ClusterFileError
from nbray.machines.down import down as end_cluster
from nbray.machines.hosts import Host
from nbray.machines.plan import Restart
from nbray.machines.provider import worker_count
from nbray.machines.up import Facts, look, role_of
from nbray.machines.up import up as carry_out

_YES = click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
_PORTS = click.option("-p", "--port-forward", type=click.IntRange(1, 65535), multiple=True,
                      help="Lead this port to the head's. May be repeated.")  # fmt: skip
_SHELLS = click.option("--use-login-shells/--use-normal-shells", "login_shells", default=True,
                       help="Whether commands see your start-up files of bash.")  # fmt: skip
_SCREEN = click.option("--screen", is_flag=True, help="In a screen on the head.")
_TMUX = click.option("--tmux", is_flag=True, help="In a tmux on the head.")
_START = click.option("--start", is_flag=True, help="Bring the cluster up first.")
_STOP = click.option("--stop", is_flag=True, help="End the cluster afterwards.")


@click.command()
@FILE
@click.option("--min-workers", type=click.IntRange(0), help="Instead of the file's.")
@click.option("--max-workers", type=click.IntRange(0), help="Instead of the file's.")
@click.option("--no-restart", is_flag=True, help="Leave nodes alone that run.")
@click.option("--restart-only", is_flag=True, help="Start all nodes anew, without set-up.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@_YES
@NAME
@_SHELLS
@without_effect("no-config-cache", "redirect-command-output", "disable-usage-stats")
@clear_errors
def up(
    file: Path, min_workers: int | None, max_workers: int | None, no_restart: bool,
    restart_only: bool, dry_run: bool, yes: bool, cluster_name: str | None, login_shells: bool,
) -> None:  # fmt: skip
    """Bring the cluster of FILE up, or change what differs from the file.

    All machines are set up and started from here by ssh, at once. The exit code is 1 if one failed.
    """
    if no_restart and restart_only:
        raise click.UsageError("--no-restart and --restart-only exclude each other.")
    wanted = _read(file, cluster_name)
    if wanted.autoscaling is not None and (min_workers, max_workers) != (None, None):
        raise ClusterFileError(
            "--min-workers and --max-workers stand in the file of a cluster of jobs: each of "
            "available_node_types has its own."
        )
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


def _read(file: Path, cluster_name: str | None) -> ClusterFile:
    """The file, of which its autoscaler will take its part."""
    wanted = cluster_file.read(file, cluster_name)
    if wanted.autoscaling is not None:
        try:
            config.check(wanted.autoscaling)
        except config.ScalingConfigError as error:
            raise ClusterFileError(f"{file}: {error}") from error
    return wanted


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
@FILE
@_YES
@click.option("--workers-only", is_flag=True, help="The head goes on.")
@click.option("--keep-min-workers", is_flag=True, help="Head and min_workers go on.")
@NAME
@clear_errors
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


@click.command("exec")
@FILE
@click.argument("cmd")
@click.option("--run-env", type=click.Choice(["auto", "host", "docker"]), default="auto",
              show_default=True, help="In the container, if there is one.")  # fmt: skip
@_START
@_STOP
@_SCREEN
@_TMUX
@_PORTS
@NAME
@_SHELLS
@without_effect("no-config-cache")
@clear_errors
def exec_command(
    file: Path, cmd: str, run_env: str, start: bool, stop: bool, screen: bool, tmux: bool,
    port_forward: tuple[int, ...], cluster_name: str | None, login_shells: bool,
) -> None:  # fmt: skip
    """Run CMD by a shell on the head; its exit code is this command's."""
    if start:
        bring_up(SafeConsole(highlight=False, stderr=True), _read(file, cluster_name))
    target = Target.of(file, cluster_name)
    if run_env == "docker" and target.host.container is None:
        raise click.UsageError("--run-env=docker: the file has no docker.image.")
    _run(target, cmd, run_env != "host", screen, tmux, stop, port_forward, login_shells)


def _run(
    target: Target, cmd: str, inside: bool, screen: bool, tmux: bool, stop: bool,
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
@FILE
@_START
@_SCREEN
@_TMUX
@click.option("-N", "--new", is_flag=True, help="A new screen or tmux, not the one that is there.")
@_PORTS
@click.option("--node-ip", help="This machine of the file; the head by default.")
@NAME
@without_effect("no-config-cache")
@clear_errors
def attach(
    file: Path, start: bool, screen: bool, tmux: bool, new: bool, port_forward: tuple[int, ...],
    node_ip: str | None, cluster_name: str | None,
) -> None:  # fmt: skip
    """Open a shell on the head."""
    if start:
        bring_up(SafeConsole(highlight=False, stderr=True), _read(file, cluster_name))
    target = Target.of(file, cluster_name, node_ip)
    text = remote.shell(target.host, _session(screen, tmux), new)
    if target.host.container is not None:
        text = target.host.container.inside(text, tty=True)
    sys.exit(target.call(text, tty=True, ports=port_forward))


@click.command(context_settings={"ignore_unknown_options": True})
@FILE
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("script_args", nargs=-1)
@_START
@_STOP
@_SCREEN
@_TMUX
@_PORTS
@NAME
@without_effect("no-config-cache", "disable-usage-stats")
@clear_errors
def submit(
    file: Path, script: Path, script_args: tuple[str, ...], start: bool, stop: bool, screen: bool,
    tmux: bool, port_forward: tuple[int, ...], cluster_name: str | None,
) -> None:  # fmt: skip
    """Copy SCRIPT to the head's home and run it there, by the Python that runs the node."""
    if start:
        bring_up(SafeConsole(highlight=False, stderr=True), _read(file, cluster_name))
    target = Target.of(file, cluster_name)
    asyncio.run(_put(target.host, script))
    words = " ".join(shlex.quote(word) for word in script_args)
    cmd = f'"$NBRAY_PYTHON" ~/{shlex.quote(script.name)} {words}'
    _run(target, cmd, True, screen, tmux, stop, port_forward, True)


async def _put(host: Host, script: Path) -> None:
    await host.send(str(script.absolute()), f"~/{script.name}")
