"""The processes of a node on this machine: started, found and stopped.

A head node is a session folder, a GCS and a raylet; a node that joins is a session folder and
a raylet. Either leaves with its starter (a program, a notebook kernel) or is detached, as
`nbray start` wants it. A start that fails leaves no process and no folder behind.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nbray.common.accelerators import node_units
from nbray.common.addresses import joined, split
from nbray.common.config import Config
from nbray.common.folders import absolute
from nbray.common.limits import cpu_count
from nbray.common.memory import memory_free, memory_total
from nbray.common.pids import start_time
from nbray.common.process import Child, ForkedProcess, environment, spawn
from nbray.common.session import Session
from nbray.common.session_roots import sessions_root
from nbray.launcher.client_port import ClientListeners, RemoteDrivers
from nbray.launcher.dashboard import (
    DashboardOptions,
    bind,
    dashboard_log,
    missing_packages,
    url_of,
)
from nbray.launcher.described import NodeOptions
from nbray.launcher.detected import accelerators, type_label
from nbray.launcher.found import drop_dead_sessions, found_nodes, is_raylet
from nbray.launcher.record import NodeRecord
from nbray.launcher.running_node import RunningNode as RunningNode
from nbray.launcher.tls import TlsOptions
from nbray.scheduling.labels import check_node_labels
from nbray.wire import identity
from nbray.wire.knock import knock

_SMALLEST_STORE = 1 << 20
_LONGEST_COMMAND = 60_000
_SWITCH = "NBRAY_INCLUDE_DASHBOARD"


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster a head node begins, or goes on with.

    Attributes:
        port: of the GCS; 0 takes a free one.
        token: the cluster's secret; a random one by default.
        storage: where the GCS keeps its tables: "sqlite", in the session folder, "memory", or
            "redis://host:port".
        session: the session folder of a head node that has crashed: the cluster goes on, at its
            old address, with its tables. Host, port and storage are of old, and so is the token
            unless another is given: nodes that have the old one are refused then.
        autoscaling_config: a cluster's file; the node's raylet runs an autoscaler with it.
    """

    port: int = 0
    token: bytes | None = None
    storage: str = "sqlite"
    session: Path | None = None
    autoscaling_config: Path | None = None


def start_head(
    wanted: NodeOptions,
    cluster: ClusterOptions = ClusterOptions(),
    *,
    dashboard: DashboardOptions = DashboardOptions(),  # noqa: B008 - it is frozen
    remote_drivers: RemoteDrivers | None = None,
    fate_shared: bool = True,
    for_programs: bool | None = None,
    record: NodeRecord | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> RunningNode:
    """Start a head node.

    Args:
        wanted: what it is to be.
        cluster: which cluster begins with it.
        dashboard: whether and where it serves.
        remote_drivers: drivers of other machines may come, by a gateway; None: they may not.
        fate_shared: the node leaves when this process ends, however it ends.
        for_programs: `init` without an address joins it; so it is by default when the node is
            detached.
        record: is to know the node from the first moment on.
        meanwhile: is called while the processes come up.

    Raises:
        ProcessStartError: a process did not start; nothing is left running.
        ValueError: an amount of a resource cannot be, the store too small, or a label
            malformed; or the node of the session still runs, or there is none; or the
            dashboard's port is in use.
        OSError: the dashboard's address is none of this machine's.
    """
    demand = _node_arguments(wanted)
    host, port, session = wanted.address, cluster.port, cluster.session
    tls = TlsOptions.from_environment()
    listener, without = _dashboard_listener(dashboard)
    resumed = session is not None
    with closing(_HeadPorts(listener, resumed)) as ports, _alone(session):
        if session is not None:
            address = _crashed_head(session)
            host, port = split(address)
            node = RunningNode(Session(session), host)
            if cluster.token is not None:
                _take_token(node.session, cluster.token)
        else:
            if fate_shared:
                drop_dead_sessions()
            node = RunningNode(Session.create(cluster.token), host)
        node.dashboard_error = without
        try:
            if not resumed:
                node.session.keep_storage(cluster.storage)
            tls.prepare(node.session)
            if remote_drivers is not None:
                ports.clients = ClientListeners(host, remote_drivers.port, node.session)
                node.client_server = ports.clients.address
            if record is not None:
                record.keep(node.session, wanted.labels)
            demand += ["--head", *ports.arguments(node)]
            if cluster.autoscaling_config is not None:
                demand += ["--autoscaling-config", str(cluster.autoscaling_config.absolute())]
            told, tells = os.pipe()
            with open(tells, "wb", buffering=0) as tells_address:
                try:
                    gcs, raylet = _spawn_both(
                        node, port, ["--gcs-address-fd", str(told), *demand], fate_shared,
                        wanted.variables, [told, *ports.descriptors],
                    )  # fmt: skip
                finally:
                    os.close(told)
                meanwhile()
                gcs_port = gcs.wait_ready(Config.from_env().start_timeout_s)["port"]
                node.gcs_address = joined(host, gcs_port)
                with suppress(BrokenPipeError):  # why the raylet has ended is told below
                    tells_address.write(node.gcs_address.encode())
            _raylet_ready(node, raylet)
            if node.dashboard_error:
                dashboard_log(node.session).write_text(node.dashboard_error + "\n")
            _write_info(node, fate_shared, for_programs, record)
        except BaseException:
            node.stop(keep_session=resumed)
            raise
    return node


@contextmanager
def _alone(session: Path | None) -> Iterator[None]:
    """Bring a node back as the only one: the sockets in its folder are made anew.

    Raises:
        ValueError: another command does so at this moment.
    """
    if session is None or not session.is_dir():
        yield
        return
    with open(session / "coming-back", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"The node of {session} is being brought back by another command at this moment."
            ) from None
        yield


@dataclass
class _HeadPorts:
    """The listening sockets that the head's raylet gets from its starter, and keeps."""

    dashboard: socket.socket | None
    resumed: bool
    clients: ClientListeners | None = None

    @property
    def descriptors(self) -> list[int]:
        own = [] if self.dashboard is None else [self.dashboard.fileno()]
        return own + ([] if self.clients is None else self.clients.descriptors)

    def arguments(self, node: RunningNode) -> list[str]:
        found = []
        if self.dashboard is not None:
            url = node.dashboard = url_of(self.dashboard, node.session, node.node_ip)
            found += ["--dashboard-fd", str(self.dashboard.fileno()), "--dashboard-url", url]
            if self.resumed:  # there may be jobs, whose manager the dashboard starts
                found.append("--dashboard-at-once")
        if self.clients is not None:
            found += [f"--client-fd={descriptor}" for descriptor in self.clients.descriptors]
        return found

    def close(self) -> None:
        """Close them here; who inherited them listens on."""
        if self.dashboard is not None:
            self.dashboard.close()
        if self.clients is not None:
            self.clients.close()


def _crashed_head(folder: Path) -> str:
    """The address of the cluster; a GCS that is left is ended, and loses nothing by it."""
    for node in found_nodes():
        if node.session.path.resolve() != folder.resolve():
            continue
        for process in node.processes:
            if is_raylet(process):
                raise ValueError(f"The node of {folder} runs: its raylet is pid {process.pid}.")
        node.end_processes()
        return node.gcs_address
    raise ValueError(f"{folder} is no session folder of yours. They are in {sessions_root()}.")


def _take_token(session: Session, token: bytes) -> None:
    """Go on with this token: who brings a session back may have changed it since."""
    if token != session.token:
        (session.path / identity.IDENTITY_FILE).unlink(missing_ok=True)  # the old token signed it
        session.keep_token(token)


def _dashboard_listener(options: DashboardOptions) -> tuple[socket.socket | None, str]:
    """The socket of a dashboard that is to be started, or why there is none.

    Raises:
        ValueError: it is insisted on, and its port is in use or a package is missing.
        OSError: it is insisted on, and cannot listen.
    """
    if options.include is False or (options.include is None and os.environ.get(_SWITCH) == "0"):
        return None, ""
    missing = missing_packages()
    if missing:
        reason = f"The dashboard needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        if options.include:
            raise ValueError(f"{reason}, or leave it out with include_dashboard=False.")
        return None, reason
    try:
        return bind(options), ""
    except (OSError, ValueError) as error:
        if options.insists:
            raise
        return None, str(error)


def join(
    address: str,
    wanted: NodeOptions,
    *,
    token: bytes,
    fate_shared: bool = False,
    for_programs: bool | None = None,
    record: NodeRecord | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> RunningNode:
    """Start a node of the cluster whose GCS is at ``address``; arguments as for `start_head`.

    Raises:
        ProcessStartError: no GCS answers there, or it refused the token; nothing is left running.
        ValueError: an amount of a resource cannot be, the store too small, or a label malformed.
    """
    demand = _node_arguments(wanted)
    knock(address)
    tls = TlsOptions.from_environment()
    node = RunningNode(Session.create(token), wanted.address, address)
    try:
        tls.prepare(node.session)
        if record is not None:
            record.keep(node.session, wanted.labels)
        with _identity_being_made(node.session):
            raylet = _spawn_raylet(
                node, ["--gcs-address", node.gcs_address, *demand], fate_shared, wanted.variables
            )
            meanwhile()
            _raylet_ready(node, raylet)
        _write_info(node, fate_shared, for_programs, record)
    except BaseException:
        node.stop()
        raise
    return node


def _node_arguments(wanted: NodeOptions) -> list[str]:
    free = memory_free()
    given = wanted.object_store_memory
    store = int(free * 0.3) if given is None else _store_bytes(given)
    if store < _SMALLEST_STORE:
        raise ValueError(
            f"The object store needs at least {_SMALLEST_STORE} bytes, not {store}: "
            "raise object_store_memory, or free memory."
        )
    there_is = memory_total()
    if store > there_is:
        raise ValueError(
            f"The object store cannot have {store} bytes: all memory of this machine, or of this "
            f"container, is {there_is}. Give less by object_store_memory (--object-store-memory); "
            "values that do not fit go to disk."
        )
    store = store // 4096 * 4096
    total: dict[str, float] = {"CPU": cpu_count(), "memory": int(free * 0.7)}
    total.update(wanted.resources)
    labels = check_node_labels(wanted.labels or {})
    if wanted.has_accelerators:
        total.update(accelerators(wanted.resources))
    units = node_units(total)
    if wanted.has_accelerators:
        labels.update(type_label(units))
    arguments = [
        "--resources", json.dumps(units), "--object-store-memory", str(store),
        "--labels", json.dumps(labels),
    ]  # fmt: skip
    spill = wanted.object_spilling_directory
    return arguments + (["--object-spilling-directory", _folder(spill)] if spill else [])


def _store_bytes(given: float) -> int:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"object_store_memory is a number of bytes, not {type(given).__name__}.")
    if not math.isfinite(given):
        raise ValueError(f"object_store_memory is a number of bytes, not {given}.")
    return int(given)


def _folder(given: str) -> str:
    if "\0" in os.fspath(given):
        raise ValueError(f"object_spilling_directory={given!r} is no path: it has a zero byte.")
    return absolute(given, "object_spilling_directory")


def _spawn_raylet(
    node: RunningNode, arguments: list[str], fate_shared: bool,
    variables: Mapping[str, str] | None, pass_fds: Sequence[int] = (),
) -> Child:  # fmt: skip
    session = node.session
    raylet = spawn(
        "nbray.raylet",
        ["--session-dir", str(session.path), "--node-ip", node.node_ip,
         *_short(session, arguments)],
        session.log_path("raylet.log"), fate_shared=fate_shared, pass_fds=pass_fds,
        variables=variables,
    )  # fmt: skip
    node.children.append(raylet)
    return raylet


def _spawn_both(
    node: RunningNode, port: int, arguments: list[str], fate_shared: bool,
    variables: Mapping[str, str] | None, pass_fds: Sequence[int],
) -> tuple[Child, Child]:  # fmt: skip
    """The GCS and the raylet of a head: `nbray.head_node` is the one and forks the other."""
    session = node.session
    log = session.log_path("gcs.log")
    (ready, says_ready), (told, tells) = os.pipe(), os.pipe()
    gcs = Child("nbray.gcs", ForkedProcess(told), log, ready, None)
    node.children.append(gcs)
    try:
        raylet = spawn(
            "nbray.head_node",
            ["nbray.raylet", str(session.path), node.node_ip, str(port), str(says_ready),
             str(tells), str(log), "--session-dir", str(session.path), "--node-ip", node.node_ip,
             *_short(session, arguments)],
            session.log_path("raylet.log"), fate_shared=fate_shared,
            pass_fds=[says_ready, tells, *pass_fds], variables=variables,
        )  # fmt: skip
    finally:
        os.close(says_ready)
        os.close(tells)
    node.children.append(raylet)
    return gcs, raylet


def _raylet_ready(node: RunningNode, raylet: Child) -> None:
    report = raylet.wait_ready(Config.from_env().start_timeout_s)
    node.raylet_socket, node.node_id = report["socket"], report["node_id"]


def _short(session: Session, arguments: list[str]) -> list[str]:
    """Arguments for a command line; in a file, as `argparse` reads it, if they are too long."""
    if sum(map(len, arguments)) < _LONGEST_COMMAND:
        return arguments
    path = session.path / "raylet.args"
    path.write_text("\n".join(arguments), errors="surrogateescape")
    return [f"@{path}"]


@contextmanager
def _identity_being_made(session: Session) -> Iterator[None]:
    """Make what the node's processes show each other while the first of them comes up."""
    if (session.path / identity.IDENTITY_FILE).exists():
        yield
        return
    # Whom it is for finds it, or makes its own and says what is wrong.
    making = subprocess.Popen(
        [sys.executable, "-P", identity.__file__, str(session.path)], env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        making.kill()  # it has ended, or was overtaken
        making.wait()


def _write_info(
    node: RunningNode, fate_shared: bool, for_programs: bool | None, record: NodeRecord | None
) -> None:
    """Say that the node is up. In its folder the raylet's pid comes after the GCS's."""
    pids = [child.pid for child in node.children]
    node.session.write_info(
        {
            "gcs_address": node.gcs_address,
            "node_ip": node.node_ip,
            "raylet_socket": node.raylet_socket,
            "node_id": node.node_id,
            "pids": pids,
            "start_ticks": [start_time(pid) for pid in pids],
            "dashboard": node.dashboard,
            "dashboard_error": node.dashboard_error,
            "fate_shared": fate_shared,
            "for_programs": not fate_shared if for_programs is None else for_programs,
            "client_server": node.client_server,
        }
    )
    if record is not None:
        record.is_up()
