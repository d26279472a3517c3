"""What programs ask of the autoscaler, and of clusters of machines; Ray's ``ray.autoscaler.sdk``.

Clusters are brought up, used and ended by the commands of ``nbray``, each in a process of its own:
what a command says is printed as it comes, and an interrupt ends it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbray.common.ignoring import ignore
from nbray.driver import scaling

__all__ = [
    "create_or_update_cluster",
    "get_head_node_ip",
    "get_worker_node_ips",
    "request_resources",
    "rsync",
    "run_on_cluster",
    "teardown_cluster",
]

_LINES_TOLD = 30
_END_S = 10.0


def request_resources(
    num_cpus: int | None = None,
    bundles: Sequence[Mapping[str, float]] | None = None,
    bundle_label_selectors: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Have room at once, without work that waits for it, until the next call.

    The cluster is scaled so that all of it would fit, used or not; what it has already counts.
    Nodes that are needed for it do not leave. ``request_resources()`` takes the request back.

    Args:
        num_cpus: so many bundles of one CPU.
        bundles: resources by name, one mapping for each bundle.
        bundle_label_selectors: conditions on node labels, one mapping for each bundle.

    Raises:
        ValueError: an amount cannot be, or there are not as many selectors as bundles.
        TypeError: an argument is of another kind.

    Examples:
        >>> from nbray.autoscaler.sdk import request_resources
        >>> request_resources(num_cpus=2)
        >>> request_resources(bundles=[{"CPU": 2}, {"GPU": 1}])
        >>> request_resources()
    """
    scaling.request_room(num_cpus, bundles, bundle_label_selectors)


def create_or_update_cluster(
    cluster_config: Mapping[str, Any] | str, *, no_restart: bool = False,
    restart_only: bool = False, no_config_cache: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Bring a cluster of machines up, or bring it up to date: ``nbray up``.

    Args:
        cluster_config: the cluster's file, or what stands in it.
        no_restart: nodes that run are left alone.
        restart_only: nodes are started again, without set-up commands.
        no_config_cache: has no effect: nothing is cached.

    Returns:
        What stands in the file.

    Raises:
        RuntimeError: a machine failed, or the file is wrong; the text ends with what was said.

    Examples:
        >>> from nbray.autoscaler.sdk import create_or_update_cluster
        >>> try:
        ...     create_or_update_cluster("missing.yaml")
        ... except RuntimeError as error:
        ...     print("missing.yaml" in str(error))
        True
    """
    if no_config_cache:
        ignore("create_or_update_cluster", ["no_config_cache"])
    words = ["-y"] + ["--no-restart"] * no_restart + ["--restart-only"] * restart_only
    with _file(cluster_config) as file:
        _command("up", file, *words)
        return _document(file)


def teardown_cluster(
    cluster_config: Mapping[str, Any] | str, workers_only: bool = False,
    keep_min_workers: bool = False,
) -> None:  # fmt: skip
    """End a cluster of machines: ``nbray down``.

    Args:
        cluster_config: the cluster's file, or what stands in it.
        workers_only: the head goes on.
        keep_min_workers: the head and ``min_workers`` go on.

    Raises:
        RuntimeError: a machine failed, or the file is wrong; the text ends with what was said.

    Examples:
        >>> from nbray.autoscaler.sdk import teardown_cluster
        >>> try:
        ...     teardown_cluster("missing.yaml")
        ... except RuntimeError as error:
        ...     print("missing.yaml" in str(error))
        True
    """
    words = ["--workers-only"] * workers_only + ["--keep-min-workers"] * keep_min_workers
    with _file(cluster_config) as file:
        _command("down", file, "-y", *words)


def run_on_cluster(
    cluster_config: Mapping[str, Any] | str, *, cmd: str | None = None, run_env: str = "auto",
    tmux: bool = False, stop: bool = False, no_config_cache: bool = False,
    port_forward: int | tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    with_output: bool = False,
) -> str | None:  # fmt: skip
    """Run a command on a cluster's head: ``nbray exec``.

    Args:
        cluster_config: the cluster's file, or what stands in it.
        cmd: the command, for a shell; by default one that does nothing.
        run_env: "host", "docker", or "auto": in the container if there is one.
        tmux: in a tmux session, which goes on by itself.
        stop: end the cluster afterwards.
        no_config_cache: has no effect: nothing is cached.
        port_forward: ports of the head that are reached meanwhile by the same ports here.
        with_output: give what the command printed, instead of printing it.

    Returns:
        What it printed, ``with_output``; else None.

    Raises:
        RuntimeError: the command or the way to the head failed; the text ends with what was said.
        ValueError: a port is to be another one here than there.

    Examples:
        >>> from nbray.autoscaler.sdk import run_on_cluster
        >>> try:
        ...     run_on_cluster("missing.yaml", cmd="uptime")
        ... except RuntimeError as error:
        ...     print("missing.yaml" in str(error))
        True
    """
    if no_config_cache:
        ignore("run_on_cluster", ["no_config_cache"])
    words = [f"--run-env={run_env}"] + ["--tmux"] * tmux + ["--stop"] * stop
    for port in _ports(port_forward):
        words += ["-p", str(port)]
    with _file(cluster_config) as file:
        said = _command("exec", file, cmd or "true", *words, show=not with_output)
    return said if with_output else None


def rsync(
    cluster_config: Mapping[str, Any] | str, *, source: str | None, target: str | None, down: bool,
    ip_address: str | None = None, use_internal_ip: bool = False, no_config_cache: bool = False,
    should_bootstrap: bool = True,
) -> None:  # fmt: skip
    """Copy files to a cluster's head or from it: ``nbray rsync-up`` and ``nbray rsync-down``.

    Args:
        cluster_config: the cluster's file, or what stands in it.
        source: what is copied; without both the ``file_mounts`` of the file.
        target: where to.
        down: from the head to this machine.
        ip_address: has to be the head's, if it is given.
        use_internal_ip: has no effect: the file says how the head is reached.
        no_config_cache: has no effect: nothing is cached.
        should_bootstrap: has no effect: there is nothing to add to the file.

    Raises:
        RuntimeError: it failed; the text ends with what was said.
        ValueError: ``ip_address`` is not the head's.

    Examples:
        >>> from nbray.autoscaler.sdk import rsync
        >>> try:
        ...     rsync("missing.yaml", source="a", target="b", down=False)
        ... except RuntimeError as error:
        ...     print("missing.yaml" in str(error))
        True
    """
    without_effect = {
        "use_internal_ip": use_internal_ip, "no_config_cache": no_config_cache,
        "should_bootstrap": not should_bootstrap,
    }  # fmt: skip
    ignore("rsync", [name for name, given in without_effect.items() if given])
    with _file(cluster_config) as file:
        if ip_address is not None and ip_address != get_head_node_ip(str(file)):
            raise ValueError(f"Files are copied to the head and from it, not to {ip_address}.")
        paths = [path for path in (source, target) if path is not None]
        _command("rsync-down" if down else "rsync-up", file, *paths)


def get_head_node_ip(cluster_config: Mapping[str, Any] | str) -> str:
    """The address of a cluster's head, as its file has it: ``nbray get-head-ip``.

    Args:
        cluster_config: the cluster's file, or what stands in it.

    Returns:
        The address.

    Raises:
        RuntimeError: the file is wrong.

    Examples:
        >>> from nbray.autoscaler.sdk import get_head_node_ip
        >>> machines = {"type": "local", "head_ip": "10.1.1.1", "worker_ips": ["10.1.1.2"]}
        >>> mine = {"cluster_name": "mine", "provider": machines, "auth": {"ssh_user": "me"}}
        >>> get_head_node_ip(mine)
        '10.1.1.1'
    """
    with _file(cluster_config) as file:
        return _command("get-head-ip", file, show=False).strip()


def get_worker_node_ips(cluster_config: Mapping[str, Any] | str) -> list[str]:
    """The addresses of a cluster's workers: ``nbray get-worker-ips``.

    Args:
        cluster_config: the cluster's file, or what stands in it.

    Returns:
        The addresses.

    Raises:
        RuntimeError: the file is wrong.

    Examples:
        >>> from nbray.autoscaler.sdk import get_worker_node_ips
        >>> machines = {"type": "local", "head_ip": "10.1.1.1", "worker_ips": ["10.1.1.2"]}
        >>> mine = {"cluster_name": "mine", "provider": machines, "auth": {"ssh_user": "me"}}
        >>> get_worker_node_ips(mine)
        ['10.1.1.2']
    """
    with _file(cluster_config) as file:
        return _command("get-worker-ips", file, show=False).split()


# --- the commands --------------------


@contextmanager
def _file(cluster_config: Mapping[str, Any] | str) -> Iterator[Path]:
    """A cluster's file, which is written where it is given as a dict.

    Raises:
        RuntimeError: there is none.
    """
    if isinstance(cluster_config, str):
        file = Path(cluster_config)
        if not file.is_file():
            raise RuntimeError(f"There is no file {cluster_config} that describes a cluster.")
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="nbray-") as folder:
        file = Path(folder) / "cluster.yaml"
        file.write_text(json.dumps(dict(cluster_config)))  # JSON is YAML
        yield file


def _document(file: Path) -> dict[str, Any]:
    import yaml

    document: dict[str, Any] = yaml.safe_load(file.read_text())
    return document


def _ports(given: int | tuple[int, int] | Sequence[tuple[int, int]] | None) -> list[int]:
    if given is None:
        return []
    if isinstance(given, int):
        return [given]
    pairs: list[Any] = [given] if isinstance(given[0], int) else list(given)
    ports: list[int] = []
    for here, there in pairs:
        if here != there:
            raise ValueError(f"Port {there} of the head is the same port here, not {here}.")
        ports.append(there)
    return ports


def _command(verb: str, file: Path, *words: str, show: bool = True) -> str:
    """What a command of ``nbray`` says, which is printed as it comes if it is to be shown.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "nbray.cli", verb, str(file), *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if show else subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    try:
        if show:
            assert process.stdout is not None
            last: deque[str] = deque(maxlen=_LINES_TOLD)
            for line in process.stdout:
                print(line, end="", flush=True)
                last.append(line)
            said = trouble = "".join(last)
        else:
            said, trouble = process.communicate()
        code = process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    if code:
        raise RuntimeError(f"nbray {verb} failed with exit code {code}:\n{trouble or said}")
    return said
