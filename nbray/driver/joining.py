"""How a program finds a cluster of its user and joins it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbray.cloudpickle import keep_classes
from nbray.common import ray_name
from nbray.common.addresses import is_loopback
from nbray.common.config import Config
from nbray.common.folders import current_folder
from nbray.common.session import Session, SessionInfo
from nbray.driver import asides, output
from nbray.driver.context import NbrayContext
from nbray.driver.init_options import JobOptions
from nbray.exceptions import LocalRayletDiedError, NbrayError
from nbray.launcher.found import running_sessions
from nbray.state.dashboard import Dashboard
from nbray.wire import messages as m
from nbray.wire import records
from nbray.wire.handshake import HandshakeError
from nbray.wire.tls import Tls

if TYPE_CHECKING:
    from nbray.client.remote import Remote
    from nbray.core_worker.core import CoreWorker

_WORD_S = 0.5


OWN_SESSION = "NBRAY_OWN_SESSION"
"""The variable with the session folder of the node on which a job runs: its drivers join there."""


def cluster_to_join(address: str | None) -> tuple[Session, SessionInfo] | None:
    """The cluster on this machine that `init` means; None when it is to start one."""
    if address == "local":
        return None
    if address is None:
        return next((found for found in running_sessions() if found[1]["for_programs"]), None)
    return find_session(address)


def named_address(address: str | None) -> str | None:
    """The address that `init` was given, or that the environment names."""
    if address is None or address == "auto":
        named = os.environ.get("NBRAY_ADDRESS")
        if not named and ray_name.is_installed():
            named = os.environ.get("RAY_ADDRESS")
        address = named or address
    if address is not None and address.startswith("ray://"):
        place = address.removeprefix("ray://")
        here = is_loopback(place.rpartition(":")[0] or place)
        if here and any(True for _ in running_sessions()):
            return "auto"  # a client on a machine of the cluster is a driver
    return address


def find_session(address: str) -> tuple[Session, SessionInfo]:
    """The session folder of a cluster of this user on this machine.

    Raises:
        ConnectionError: there is none at ``address``.
    """
    found = [one for one in running_sessions() if address in ("auto", one[1]["gcs_address"])]
    own = os.environ.get(OWN_SESSION)
    found.sort(key=lambda one: str(one[0].path) != own)
    if found:
        return found[0]
    raise ConnectionError(
        f"Could not find any running nbray cluster at {address!r}. Start one with nbray.init()."
    )


def join(
    session: Session, info: SessionInfo, job: JobOptions, shows_output: bool, config: Config,
    remote: Remote | None = None,
) -> CoreWorker:  # fmt: skip
    """Join a cluster as a driver.

    Args:
        session: the folder of the node, or of this program if it is ``remote``.
        info: where the cluster is.
        job: what this program says of its job.
        shows_output: the output of tasks is to be shown.
        config: the settings.
        remote: the way to a cluster of which no node is here.

    Raises:
        ConnectionError: the cluster refuses this program. NbrayError: it does not take the job.
    """
    from nbray.core_worker.core import CoreWorker  # it is loaded while a cluster starts

    if remote is None:
        worker_id = os.urandom(28)
        core = CoreWorker(
            config, session.token, worker_id,
            session.socket_path(f"d-{worker_id.hex()[:12]}"), tls=Tls.of(session.path),
        )  # fmt: skip
    else:
        core = CoreWorker(
            config, session.token, remote.outside.worker_id, session.socket_path("driver"),
            remote.road, remote.attach,
        )  # fmt: skip
        remote.watch(core.peers.connections, config.client_shortcuts, output.warn)
    try:
        core.peers.start(
            info["raylet_socket"], info["node_ip"], None if remote is None else remote.outside
        )
    except HandshakeError as error:
        raise ConnectionError(
            f"The cluster at {info['gcs_address']} does not take this program in: {error}"
        ) from None
    keep_classes()
    core.on_output = output.deliver if shows_output else None
    core.on_says = asides.deliver
    core.on_warning = output.warn
    core.reactor.start()
    namespace = job.namespace or os.urandom(8).hex()
    folder = current_folder()  # "" if it was removed: then workers stay where they begin
    sys_path = [entry or folder for entry in [*job.sys_path, *sys.path] if entry or folder]
    reply: m.DriverRegistered = core.peers.request(
        "registered",
        m.RegisterDriver(
            core.address,
            os.getpid(),
            namespace,
            sys_path,
            folder,
            " ".join(sys.argv[:1]),
            job.metadata,
        ),
    )
    if reply.error:
        core.peers.stop()
        raise NbrayError(f"The cluster did not take this driver in: {reply.error}")
    core.joined(reply.node_id, reply.arena_path, reply.arena_size)
    core.edge.on_raylet_lost = lambda: core.give_up(_lost(session, reply.node_id, remote))
    if remote is not None and remote.packages:
        named = ", ".join(f"{name} {version}" for name, version in remote.packages.items())
        output.warn(
            f"nbray: the cluster has other versions of packages than this program ({named}); "
            "values that they made may not be read on the other side."
        )
    core.me.set_job(
        records.JobConfig(
            reply.job_id, namespace, core.address, sys_path, folder,
            ray_name=ray_name.is_installed(), detached=job.detached,
        )
    )  # fmt: skip
    return core


def _lost(session: Session, node_id: bytes, remote: Remote | None) -> LocalRayletDiedError:
    """What a driver is told that has lost its cluster."""
    why = "" if remote is None else remote.why_gone(_WORD_S)
    if why:
        return LocalRayletDiedError(
            f"This driver has lost its cluster: {why}. For the cluster it is dead, and its tasks, "
            "actors and objects have ended with it: call nbray.shutdown() and nbray.init() to "
            "begin anew."
        )
    log = session.log_path("raylet.log") if remote is None else "raylet.log on the head node"
    return LocalRayletDiedError(
        f"The task's local raylet died. Check {log} for more "
        f"information.\nIt was that of node {node_id.hex()[:8]}. This driver has lost the "
        "cluster with it: call nbray.shutdown() and nbray.init() to go on with a new one."
    )


def context_of(
    core: CoreWorker, session: Session, info: SessionInfo, leave: Callable[[], None],
    remote: Remote | None = None,
) -> NbrayContext:  # fmt: skip
    """Where the cluster is; the head's machine knows its dashboard, others ask the GCS."""
    url, cluster = info["dashboard"], session.path.name
    if not url:
        from nbray.state.queries import DASHBOARD, REQUEST  # rows of all kinds: not at every start

        url, cluster = DASHBOARD.read(core.peers.gcs_call(DASHBOARD.method, REQUEST))
    dashboard = Dashboard(url, cluster, session.token, session=session.path) if url else None
    if remote is not None and dashboard is not None:
        dashboard = Dashboard(url, remote.cluster, session.token, remote.dashboard_port)
    facts = {
        "node_ip_address": info["node_ip"],
        "redis_address": None,
        "raylet_socket_name": info["raylet_socket"],
        "webui_url": url or None,
        "session_dir": str(session.path),
        "gcs_address": info["gcs_address"],
        "address": info["gcs_address"],
        "node_id": core.address.node_id.hex(),
    }
    return NbrayContext(
        url or None,
        facts,
        lambda: dashboard.login_link(time.time()) if dashboard else None,
        lambda: dashboard.probe() if dashboard else "this cluster has none",
        leave,
    )
