"""``nbray up``, ``down`` and their kin for a file with ``provider: {type: kubernetes}``."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from nbray.cli.console import SafeConsole
from nbray.cli.terminal import CliError, say
from nbray.machines import scripts
from nbray.machines.board import Board, Outcome, show_outcomes
from nbray.machines.cluster_file import ClusterFileError
from nbray.machines.home import ClusterHome
from nbray.machines.kubernetes.cluster_file import read
from nbray.machines.kubernetes.objects import scales
from nbray.machines.kubernetes.pods import CONTAINER, DASHBOARD_PORT
from nbray.machines.kubernetes.up import RECORD, KubernetesCluster
from nbray.machines.remote import LoginLink
from nbray.machines.scaling import left_by

_SCRIPTS = "/tmp/nbray-submitted"
_LEAVE_S = 120.0
_HELD_BY_KUBECTL = "kubectl delete pod, or kubectl scale, does that here"


def _open(given: Mapping[str, Any]) -> KubernetesCluster:
    return asyncio.run(KubernetesCluster.of(read(given["file"], given.get("cluster_name"))))


def _refuse(given: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if given.get(name) not in (None, False, ()):
            raise ClusterFileError(
                f"--{name.replace('_', '-')} is nothing for a cluster on Kubernetes: "
                f"{_HELD_BY_KUBECTL}."
            )


def up(**given: Any) -> None:
    """`nbray up`.

    Raises:
        CliError: something failed; all is told.
    """
    _refuse(given, "no_restart", "restart_only", "min_workers", "max_workers")
    bring_up(SafeConsole(highlight=False), given)


def bring_up(console: SafeConsole, given: Mapping[str, Any]) -> None:
    """The same, told elsewhere; errors as there."""
    began = time.monotonic()
    cluster = _open(given)
    name = cluster.wanted.cluster_name
    if given.get("dry_run") or not given.get("yes", True):
        console.print(asyncio.run(cluster.would()).rstrip(), markup=False, soft_wrap=True)
    if given.get("dry_run"):
        return
    if not given.get("yes", True):
        _ask("Go on?")

    async def run() -> list[Outcome]:
        with ClusterHome(name).at_work("up"), Board(console) as board:
            return await cluster.up(board)

    outcomes = asyncio.run(run())
    show_outcomes(console, f"Cluster {name}, {time.monotonic() - began:.1f} s", outcomes, {})
    _end_by(outcomes)


def down(**given: Any) -> None:
    """`nbray down`; errors as for `up`."""
    cluster = _open(given)
    if given["workers_only"] or given["keep_min_workers"]:
        _let_go(cluster, "none" if given["workers_only"] else "least")
        return
    if not given.get("yes"):
        _ask(f"End cluster {cluster.wanted.cluster_name}, with the volume of its head?")
    take_down(SafeConsole(highlight=False), cluster)


def _let_go(cluster: KubernetesCluster, bounds: str) -> None:
    """End workers, and start none until the next `up`."""
    if scales(cluster.wanted):
        asyncio.run(cluster.hold(bounds, _LEAVE_S))
    elif bounds == "least":
        say("No worker is beyond min_workers: the file has a fixed number of them.")
        return
    else:
        asyncio.run(cluster.end_workers())
    left = left_by(bounds)
    say(f"{left[0].upper()}{left[1:]}, and none comes until the next `nbray up`.")


def take_down(console: SafeConsole, cluster: KubernetesCluster) -> None:
    """The same, without a question."""
    name = cluster.wanted.cluster_name

    async def run() -> list[Outcome]:
        with ClusterHome(name).at_work("down"), Board(console) as board:
            return await cluster.down(board)

    outcomes = asyncio.run(run())
    show_outcomes(console, f"Cluster {name}", outcomes, {})
    _end_by(outcomes)


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise CliError("Nobody can be asked here: give --yes.")
    if not click.confirm(question):
        raise CliError("Nothing was done.")


def _end_by(outcomes: Sequence[Outcome]) -> None:
    failed = [one.name for one in outcomes if one.error is not None]
    if failed:
        raise CliError(f"{len(failed)} of {len(outcomes)} failed: {', '.join(failed)}.")


def _in_head(cluster: KubernetesCluster, text: str, *, tty: bool) -> list[str]:
    return _in_pod(cluster, cluster.head_pod, text, tty=tty)


def _in_pod(cluster: KubernetesCluster, pod: str, text: str, *, tty: bool) -> list[str]:
    flags = ["-it"] if tty else ["-i"]
    return cluster.kubectl.command("exec", *flags, pod, "-c", CONTAINER, "--", "sh", "-c", text)


def exec_command(**given: Any) -> None:
    """`nbray exec`: the command runs in the head's pod."""
    _refuse(given, "screen", "tmux")
    if given["start"]:
        bring_up(SafeConsole(highlight=False, stderr=True), given)
    _run(_open(given), given["cmd"], given["login_shells"], given["stop"], given["port_forward"])


@contextmanager
def _led(
    cluster: KubernetesCluster, pairs: Sequence[str]
) -> Iterator[subprocess.Popen[bytes] | None]:
    """Ports of this machine lead to the head's, HERE:THERE, meanwhile, by what is given."""
    if not pairs:
        yield None
        return
    command = cluster.kubectl.command("port-forward", f"pod/{cluster.head_pod}", *pairs)
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise CliError(f"No way to {', '.join(pairs)} (kubectl's words are above).")
            # What it says of each connection has to go somewhere.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield process
        finally:
            process.terminate()


def _run(
    cluster: KubernetesCluster, cmd: str, login: bool, stop: bool, ports: Sequence[int] = ()
) -> None:
    text = scripts.head_variables(RECORD) + scripts.as_user(cmd, login=login, exports={})
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    with _led(cluster, [f"{port}:{port}" for port in ports]):
        code = subprocess.call(_in_head(cluster, text, tty=tty))
    if stop:
        take_down(SafeConsole(highlight=False, stderr=True), cluster)
    sys.exit(code)


def attach(**given: Any) -> None:
    """`nbray attach`: a shell in the head's pod, or in another one."""
    _refuse(given, "screen", "tmux", "new")
    if given["start"]:
        bring_up(SafeConsole(highlight=False, stderr=True), given)
    cluster, address = _open(given), given["node_ip"]
    pod = cluster.head_pod if address is None else asyncio.run(cluster.pod_at(address))
    text = scripts.head_variables(RECORD) + "exec bash --login -i"
    with _led(cluster, [f"{port}:{port}" for port in given["port_forward"]]):
        code = subprocess.call(_in_pod(cluster, pod, text, tty=True))
    sys.exit(code)


def submit(**given: Any) -> None:
    """`nbray submit`: the script runs in the head's pod."""
    _refuse(given, "screen", "tmux")
    if given["start"]:
        bring_up(SafeConsole(highlight=False, stderr=True), given)
    cluster, script = _open(given), given["script"]
    # Python looks beside a script first, and /tmp has a folder that is called nbray.
    there = shlex.quote(f"{_SCRIPTS}/{script.name}")
    with open(script, "rb") as file:
        text = f"mkdir -p {_SCRIPTS} && cat >{there}"
        copied = subprocess.run(_in_head(cluster, text, tty=False), stdin=file)
    if copied.returncode:
        raise CliError(f"{script} was not copied to {cluster.head_pod} (kubectl's words above).")
    words = " ".join(shlex.quote(word) for word in given["script_args"])
    _run(
        cluster, f'"$NBRAY_PYTHON" {there} {words}', True, given["stop"], given["port_forward"]
    )  # fmt: skip


def monitor(**given: Any) -> None:
    """`nbray monitor`: what the head's pod says."""
    cluster = _open(given)
    words = ("logs", cluster.head_pod, "-c", CONTAINER, "-f", f"--tail={given['lines']}")
    sys.exit(subprocess.call(cluster.kubectl.command(*words)))


def get_head_ip(**given: Any) -> None:
    """`nbray get-head-ip`: the address of its pod."""
    for address in asyncio.run(_open(given).addresses("head")):
        click.echo(address)


def get_worker_ips(**given: Any) -> None:
    """`nbray get-worker-ips`: the addresses of their pods."""
    for address in asyncio.run(_open(given).addresses("worker")):
        click.echo(address)


def _copy(given: Mapping[str, Any], *, up: bool) -> None:
    """`kubectl cp`, which needs tar in the image."""
    source, target = given.get("source"), given.get("target")
    if source is None or target is None:
        raise click.UsageError("Give SOURCE and TARGET: there are no file_mounts on Kubernetes.")
    cluster = _open(given)
    pods = f"{cluster.head_pod}:"
    words = (source, pods + target) if up else (pods + source, target)
    code = subprocess.call(cluster.kubectl.command("cp", "-c", CONTAINER, *words))
    if code:
        raise CliError("It was not copied (kubectl's words are above).")


def rsync_up(**given: Any) -> None:
    """`nbray rsync-up`: to the head's pod."""
    _refuse(given, "all_nodes")
    _copy(given, up=True)


def rsync_down(**given: Any) -> None:
    """`nbray rsync-down`: from the head's pod."""
    _copy(given, up=False)


def forward_dashboard(
    file: Path, port: int, remote_port: int | None, cluster_name: str | None
) -> None:
    """Lead a port of this machine to the dashboard, until it is interrupted."""
    cluster = _open({"file": file, "cluster_name": cluster_name})
    text = scripts.head_variables(RECORD) + (
        '"$NBRAY_PYTHON" -P -c "from nbray.cli import main; main()" dashboard '
        '--address "$NBRAY_ADDRESS"'
    )
    words = ["exec", cluster.head_pod, "-c", CONTAINER, "--", "sh", "-c", text]
    said = asyncio.run(cluster.kubectl.do("asking for the dashboard", *words))
    links = [line.strip() for line in said.splitlines() if line.startswith("http")]
    if not links:
        raise CliError(f"The head said {said.strip()!r}.")
    with _led(cluster, [f"{port}:{remote_port or DASHBOARD_PORT}"]) as way:
        assert way is not None
        say(LoginLink(links[0]).at(f"localhost:{port}"))
        say("The link logs one browser in. Interrupt this command to end the way there.", err=True)
        with suppress(KeyboardInterrupt):
            code = way.wait()
            raise CliError(f"The way to the dashboard has ended: kubectl left with {code}.")


COMMANDS: Mapping[str, Callable[..., None]] = {
    "up": up, "down": down, "exec_command": exec_command, "attach": attach, "submit": submit,
    "monitor": monitor, "get_head_ip": get_head_ip, "get_worker_ips": get_worker_ips,
    "rsync_up": rsync_up, "rsync_down": rsync_down, "forward_dashboard": forward_dashboard,
}  # fmt: skip
"""By the names of those for machines, whose options they are given."""
