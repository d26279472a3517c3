"""The processes of a node on this machine: started, found and stopped.

A head node is a session folder, a GCS and a raylet; a node that joins is a session folder and
a raylet. Either leaves with its starter (a program, a notebook kernel) or is detached, as
`nbray start` wants it. A start that fails leaves no process and no folder behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from nbray.common.accelerators import node_units
from nbray.common.addresses import joined, split
from nbray.common.config import Config
from nbray.common.limits import cpu_count, memory_free, memory_total
from nbray.common.pids import start_time
from nbray.common.process import Child, environment, spawn
from nbray.common.session import Session, SessionInfo, known_sessions, unfinished_sessions
from nbray.common.session_roots import sessions_root
from nbray.launcher.client_port import ClientListeners
from nbray.launcher.dashboard import (
    DashboardOptions,
    bind,
    dashboard_log,
    missing_packages,
    start_dashboard,
    url_of,
)
from nbray.launcher.record import NodeRecord
from nbray.launcher.running_node import RunningNode as RunningNode
from nbray.launcher.tls import TlsOptions
from nbray.scheduling.labels import check_node_labels
from nbray.wire import identity

_SMALLEST_STORE = 1 << 20
_KILLED_S = 5.0
_LONGEST_COMMAND = 60_000
_SWITCH = "NBRAY_INCLUDE_DASHBOARD"


def start_head(
    *,
    resources: Mapping[str, float],
    object_store_memory: float | None = None,
    object_spilling_directory: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    fate_shared: bool = True,
    token: bytes | None = None,
    storage: str = "sqlite",
    session: Path | None = None,
    labels: Mapping[str, str] | None = None,
    dashboard: DashboardOptions = DashboardOptions(),  # noqa: B008 - it is frozen
    variables: Mapping[str, str] | None = None,
    for_programs: bool | None = None,
    record: NodeRecord | None = None,
    meanwhile: Callable[[], object] = lambda: None,
    autoscaling_config: Path | None = None,
    remote_drivers: bool = False,
    client_port: int | None = None,
) -> RunningNode:
    """Start a head node.

    Args:
        resources: amounts by name; CPU and memory (bytes) get defaults from what the machine or
            the container allows.
        object_store_memory: bytes of the arena; 30% of the free memory by default.
        object_spilling_directory: where values go when the arena is full; the session folder
            by default.
        host: the address to listen on.
        port: the port of the GCS; 0 takes a free one.
        fate_shared: the node leaves when this process ends, however it ends.
        token: the cluster's secret; a random one by default.
        storage: where the GCS keeps its tables: "sqlite", in the session folder, "memory", or
            "redis://host:port".
        session: the session folder of a head node that has crashed: the cluster goes on, at its
            old address, with its tables. ``host``, ``port``, ``token`` and ``storage`` are of old.
        labels: labels of the node, for label selectors.
        dashboard: whether and where it serves.
        variables: settings of the cluster, in the environment of its processes.
        for_programs: `init` without an address joins it; so it is by default when the node is
            detached.
        record: is to know the node from the first moment on.
        meanwhile: is called while the processes come up.
        autoscaling_config: a cluster's file; the node's raylet runs an autoscaler with it.
        remote_drivers: drivers of other machines may come, by a gateway.
        client_port: where; 10001 or the next that is free by default, 0 takes any.

    Raises:
        ProcessStartError: a process did not start; nothing is left running.
        ValueError: an amount of a resource cannot be, the store too small, or a label
            malformed; or the node of ``session`` still runs, or there is none; or the
            dashboard's port is in use.
        OSError: the dashboard's address is none of this machine's.
    """
    demand = _node_arguments(resources, object_store_memory, object_spilling_directory, labels)
    tls = TlsOptions.from_environment()
    listener, without = _dashboard_listener(dashboard)
    if session is not None:
        address = _crashed_head(session)
        host, port = split(address)
        node = RunningNode(Session(session), host)
    else:
        if fate_shared:
            drop_dead_sessions()
        node = RunningNode(Session.create(token), host)
        node.session.keep_storage(storage)
    node.dashboard_error = without
    comers: ClientListeners | None = None
    try:
        tls.prepare(node.session)
        if remote_drivers:
            comers = ClientListeners(host, client_port, node.session)
            node.client_server = comers.address
        if record is not None:
            record.keep(node.session)
        gcs = spawn(
            "nbray.gcs",
            ["--session-dir", str(node.session.path), "--host", host, "--port", str(port)],
            node.session.log_path("gcs.log"), fate_shared=fate_shared, variables=variables,
        )  # fmt: skip
        node.children.append(gcs)
        head = ["--head", "--gcs-pid", str(gcs.pid)]
        if autoscaling_config is not None:
            head += ["--autoscaling-config", str(autoscaling_config.absolute())]
        kept = [] if listener is None else [listener.fileno()]
        if listener is not None:
            head += [
                "--dashboard-fd",
                str(kept[0]),
                "--dashboard-url",
                url_of(listener, node.session, host),
            ]
        if comers is not None:
            kept += comers.descriptors
            for descriptor in comers.descriptors:
                head += ["--client-fd", str(descriptor)]
        told, tells = os.pipe()
        with _identity_being_made(node.session), open(tells, "w") as tells_address:
            try:
                raylet = _spawn_raylet(
                    node,
                    ["--gcs-address-fd", str(told), *demand, *head],
                    fate_shared, variables, pass_fds=[told, *kept],
                )  # fmt: skip
            finally:
                os.close(told)
            meanwhile()
            gcs_port = gcs.wait_ready(Config.from_env().start_timeout_s)["port"]
            node.gcs_address = joined(host, gcs_port)
            tells_address.write(node.gcs_address)
        _raylet_ready(node, raylet)
        if node.dashboard_error:
            dashboard_log(node.session).write_text(node.dashboard_error + "\n")
        if listener is not None:
            node.dashboard = start_dashboard(
                listener, node.session, node.gcs_address, host, fate_shared
            )
        _write_info(node, fate_shared, for_programs)
    except BaseException:
        if listener is not None:
            listener.close()
        if comers is not None:
            comers.close()
        node.stop(keep_session=session is not None)
        raise
    if comers is not None:
        comers.close()
    return node


def _crashed_head(folder: Path) -> str:
    """The address of the cluster; a GCS that is left is ended, and loses nothing by it."""
    for node in found_nodes():
        if node.session.path.resolve() != folder.resolve():
            continue
        for process in node.processes:
            if _is_raylet(process):
                raise ValueError(f"The node of {folder} runs: its raylet is pid {process.pid}.")
        node.end_processes()
        return node.gcs_address
    raise ValueError(f"{folder} is no session folder of yours. They are in {sessions_root()}.")


def _is_raylet(process: psutil.Process) -> bool:
    try:
        return "nbray.raylet" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


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
    *,
    resources: Mapping[str, float],
    token: bytes,
    object_store_memory: float | None = None,
    object_spilling_directory: str | None = None,
    host: str = "127.0.0.1",
    fate_shared: bool = False,
    labels: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    for_programs: bool | None = None,
    record: NodeRecord | None = None,
) -> RunningNode:
    """Start a node of the cluster whose GCS is at ``address``; arguments as for `start_head`.

    Raises:
        ProcessStartError: no GCS answers there, or it refused the token; nothing is left running.
        ValueError: an amount of a resource cannot be, the store too small, or a label malformed.
    """
    demand = _node_arguments(resources, object_store_memory, object_spilling_directory, labels)
    tls = TlsOptions.from_environment()
    node = RunningNode(Session.create(token), host, address)
    try:
        tls.prepare(node.session)
        if record is not None:
            record.keep(node.session)
        with _identity_being_made(node.session):
            raylet = _spawn_raylet(
                node, ["--gcs-address", node.gcs_address, *demand], fate_shared, variables
            )
            _raylet_ready(node, raylet)
        _write_info(node, fate_shared, for_programs)
    except BaseException:
        node.stop()
        raise
    return node


def _node_arguments(
    resources: Mapping[str, float],
    object_store_memory: float | None,
    spill: str | None,
    labels: Mapping[str, str] | None,
) -> list[str]:
    free = memory_free()
    store = int(free * 0.3) if object_store_memory is None else _store_bytes(object_store_memory)
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
    total.update(resources)
    arguments = [
        "--resources", json.dumps(node_units(total)), "--object-store-memory", str(store),
        "--labels", json.dumps(check_node_labels({} if labels is None else labels)),
    ]  # fmt: skip
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
    return os.path.abspath(given)


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


def _write_info(node: RunningNode, fate_shared: bool, for_programs: bool | None) -> None:
    """What others find in the session folder; the raylet's pid comes after the GCS's."""
    dashboard = [] if node.dashboard is None else [node.dashboard.child]
    pids = [child.pid for child in [*node.children, *dashboard]]
    node.session.write_info(
        {
            "gcs_address": node.gcs_address,
            "node_ip": node.node_ip,
            "raylet_socket": node.raylet_socket,
            "node_id": node.node_id,
            "pids": pids,
            "start_ticks": [start_time(pid) for pid in pids],
            "dashboard": "" if node.dashboard is None else node.dashboard.url,
            "dashboard_error": node.dashboard_error,
            "fate_shared": fate_shared,
            "for_programs": not fate_shared if for_programs is None else for_programs,
            "client_server": node.client_server,
        }
    )


@dataclass(frozen=True)
class FoundNode:
    """A node of this user on this machine, whoever started it, as its session folder tells.

    Attributes:
        session: its folder.
        gcs_address: the GCS of its cluster.
        fate_shared: it ends with the program that started it.
        processes: its GCS, raylet and dashboard as far as they run, in the order of their start.
        dashboard: where its dashboard is, as "host:port"; empty when it has none.
        dashboard_error: why it has none although nobody refused it.
        by_command: `nbray start` started it, perhaps with ``--block``.
    """

    session: Session
    gcs_address: str
    fate_shared: bool
    processes: list[psutil.Process]
    dashboard: str = ""
    dashboard_error: str = ""
    by_command: bool = False

    def end(self, grace_s: float) -> None:
        """End it within ``grace_s`` seconds, 0: at once; a command that holds it ends with it."""
        deadline = time.monotonic() + grace_s
        if grace_s and self.fate_shared and self.by_command and self.processes:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
                holder = self.processes[-1].parent()
                if holder is not None and "--block" in holder.cmdline():
                    holder.terminate()
                    _has_ended(holder.pid, grace_s)
        self.end_processes(max(0.0, deadline - time.monotonic()))
        self.session.remove()

    def stop(self, force: bool = False) -> None:
        """End its processes and delete its folder; with ``force`` they are killed."""
        self.end_processes(0.0 if force else 5.0)
        self.session.remove()

    def end_processes(self, timeout_s: float = 5.0) -> None:
        """End its processes, the last started first.

        One that has not left within ``timeout_s`` seconds is killed.
        """
        for process in reversed(self.processes):
            try:
                if timeout_s:
                    process.terminate()
                if not timeout_s or not _has_ended(process.pid, timeout_s):
                    process.kill()
                    _has_ended(process.pid, _KILLED_S)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue


def _has_ended(pid: int, timeout_s: float) -> bool:
    """Whether a process ended within ``timeout_s``; one that nobody has reaped yet has ended.

    The first process of a container may take seconds to reap, so its waiting is not ours.
    """
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def found_nodes() -> list[FoundNode]:
    """The nodes of this user on this machine, the newest first, also those that ended."""
    return [
        FoundNode(
            session, info["gcs_address"], info["fate_shared"],
            _processes_of(session, info, len(info["pids"])),
            info["dashboard"], info["dashboard_error"], info["for_programs"],
        )
        for session, info in known_sessions()
    ]  # fmt: skip


def node_of(session: Session) -> FoundNode:
    """The node of a session folder, wherever that is, also of one whose start was cut off."""
    try:
        info = session.read_info()
    except (OSError, ValueError):
        return FoundNode(session, "", False, _processes_naming(session))
    return FoundNode(
        session, info["gcs_address"], info["fate_shared"],
        _processes_of(session, info, len(info["pids"])), by_command=info["for_programs"],
    )  # fmt: skip


def running_sessions() -> Iterator[tuple[Session, SessionInfo]]:
    """The sessions whose nodes still run, the newest first; a GCS alone may be away for a moment,
    as may a dashboard for good.
    """
    for session, info in known_sessions():
        if _processes_of(session, info, 2):
            yield session, info


def _processes_of(session: Session, info: SessionInfo, first: int) -> list[psutil.Process]:
    """Those of the first so many processes that run, and still are this session's."""
    found = []
    for pid, began in list(zip(info["pids"], info["start_ticks"], strict=True))[:first]:
        if not began or start_time(pid) != began:
            continue  # it has ended, and the pid may have a new owner
        try:
            process = psutil.Process(pid)
            if str(session.path) in process.cmdline():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def end_unfinished_starts() -> int:
    """End what starts left that were killed before they were done; how many there were."""
    longest = 2 * Config.from_env().start_timeout_s  # a GCS and a raylet, one after the other
    count = 0
    for session in unfinished_sessions(longest):
        left = _processes_naming(session)
        FoundNode(session, "", False, left).stop()
        count += bool(left)
    return count


def _processes_naming(session: Session) -> list[psutil.Process]:
    """Those whose command lines name a session folder, in the order of their start."""
    found = [
        process for process in psutil.process_iter(["cmdline", "create_time"])
        if str(session.path) in (process.info["cmdline"] or ())
    ]  # fmt: skip
    return sorted(found, key=lambda process: float(process.info["create_time"]))


def drop_dead_sessions(keep: int = 1) -> None:
    """Delete what clusters left on the disk that ended with a killed program, as a kernel is.

    The newest ``keep`` of them stay, for their logs.
    """
    dead = [node for node in found_nodes() if node.fate_shared and not node.processes]
    for node in dead[keep:]:
        node.session.remove()
