"""Ray's cluster as a notebook sees it: joined, started, left; nodes, resources, logs."""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from nbray import exceptions
from nbray.notebook import ClusterNow, DemandState, Membership, Nodes, WorkerState

from . import parcel, rows, worker
from .post import NAMESPACE, PostOffice
from .refusals import refused

_OFFICE_S = 120.0
_CONNECT_S = 10.0
_ROOT = "f" * 40
"""How the id of the task begins that stands for a driver; the id of its job is behind it."""
_WAITING = "PENDING_NODE_ASSIGNMENT"
_HERE = ("local", None)
_leave_ray = ray.shutdown


class RayContext(Mapping[str, Any]):
    """What joining Ray gives: where it is, with a picture of its own.

    Attributes:
        dashboard_url: HOST:PORT, or None.
    """

    nbray_version = f"on Ray {ray.__version__}"
    python_version = sys.version.split()[0]

    def __init__(self, facts: Mapping[str, Any], dashboard_url: str | None) -> None:
        self._facts = dict(facts)
        self.dashboard_url = dashboard_url or None

    def __getitem__(self, name: str) -> Any:
        return self._facts[name]

    def __iter__(self) -> Any:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def login_link(self) -> str | None:
        """None: Ray's dashboard asks for its token itself."""
        return None

    def probe_dashboard(self) -> str:
        """Why the dashboard cannot be reached; "" if it can."""
        host, _, port = (self.dashboard_url or "").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, ValueError) as error:
            return str(error)
        return ""


def check(address: str | None) -> None:
    """Ray asks an address where nobody listens for minutes, so ask first.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").removeprefix("ray://").partition("?")[0].rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        except OSError as error:
            raise OSError(f"nobody listens at {host}:{port}: {error}") from error


class _NoNodes:
    """See `nbray.notebook.Nodes`."""

    def added(self) -> list[str]:
        """None were."""
        return []

    def add(self, **_options: Any) -> str:
        """See `nbray.notebook.Nodes`."""
        raise refused("%nbray scale")

    def remove(self, node_id: str | None = None) -> str:
        """See `nbray.notebook.Nodes`."""
        raise refused("%nbray scale")


@dataclass
class _Joined:
    """A cluster that this kernel is in."""

    name: str
    address: str
    started_here: bool
    context: RayContext
    logs: Path | None
    parcel: Path


class RayCluster:
    """The cluster of this kernel. `nbray.notebook.Cluster` is met by it."""

    nodes: Nodes = _NoNodes()
    context_type: type = RayContext
    command = "ray"

    def __init__(self, opened: Callable[[Any, str], None], closed: Callable[[], None]) -> None:
        """``opened`` gets a cluster's post office and root task; ``closed`` hears of its end."""
        self._opened = opened
        self._closed = closed
        self._joined: _Joined | None = None

    # --- joined and left --------------------

    def init(self, address: str | None = None, **options: Any) -> RayContext:
        """Join the cluster at ``address``, or start one on this machine.

        Args:
            address: ``auto``, HOST:PORT, or ray://HOST:PORT; None or ``local``: a new one.
            options: as `ray.init` takes them.

        Raises:
            NbrayError: Ray was initialised without the notebook, or did not start.
        """
        if "nbray.compat" in getattr(ray, "__name__", ""):
            raise exceptions.NbrayError("`import ray` is nbray here; Ray itself is needed.")
        if ray.is_initialized():
            raise exceptions.NbrayError(
                "ray.init has run in this kernel already, so that Ray's workers would not send "
                "their output here: ray.shutdown() first, then %nbray attach."
            )
        options = {name: value for name, value in options.items() if value is not None}
        unknown = [
            name
            for name in options
            if name not in inspect.signature(ray.init).parameters and not name.startswith("_")
        ]
        if unknown:
            raise exceptions.NbrayError(f"Ray's `init` has no option {unknown[0]}.")
        check(address)
        name = f"nbray-{uuid.uuid4().hex}"
        folder, modules = parcel.make()
        far = str(address or "").startswith("ray://")
        # The notebook shows what tasks print, and tells of each error.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        hook = "nbray.ray_engine.worker.install"
        environment: dict[str, Any] = {
            "py_modules": modules,
            "env_vars": {worker.OFFICE: name},
            "worker_process_setup_hook": hook,
        }
        if far:  # the driver that Ray's client has there does not make this of the hook
            environment["env_vars"][ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR] = hook
        try:
            made = ray.init(
                address,
                runtime_env=environment,
                log_to_driver=False,
                logging_level="WARNING",
                **options,
            )
            office = ray.remote(PostOffice).options(
                name=name, namespace=NAMESPACE, num_cpus=0, max_concurrency=1000
            ).remote()  # fmt: skip
            ray.get(office.take.remote(0.0), timeout=_OFFICE_S)
        except Exception as error:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError | ValueError):
                raise
            raise exceptions.NbrayError(f"Ray: {' '.join(str(error).split())}") from error
        facts = {} if far else dict(made.address_info)
        at = str(address) if far else str(facts.get("address") or facts.get("gcs_address"))
        context = RayContext({**facts, "address": at}, made.dashboard_url)
        session = facts.get("session_dir")
        self._joined = _Joined(
            name, at, address in _HERE, context,
            Path(session) / "logs" if session is not None else None, folder,
        )  # fmt: skip
        self._opened(office, _ROOT + ray.get_runtime_context().get_job_id())
        ray.shutdown = self._shutdown_of_program
        return context

    def shutdown(self) -> None:
        """Leave the cluster; one that was started here ends."""
        joined, self._joined = self._joined, None
        ray.shutdown = _leave_ray
        self._closed()
        ray.shutdown()
        if joined is not None:
            shutil.rmtree(joined.parcel, ignore_errors=True)

    @functools.wraps(_leave_ray)
    def _shutdown_of_program(self, *_args: Any, **_kwargs: Any) -> None:
        # In the place of Ray's own meanwhile: who still asks Ray behind it would join anew.
        self.shutdown()

    def is_initialized(self) -> bool:
        """Whether this kernel is in a cluster, through the notebook."""
        return self._joined is not None and ray.is_initialized()

    def name(self) -> str:
        """See `nbray.notebook.Cluster`."""
        return self._joined.name if self._joined is not None and self.is_initialized() else ""

    def membership(self) -> Membership | None:
        """See `nbray.notebook.Cluster`."""
        joined = self._joined
        if joined is None or not self.is_initialized():
            return None
        return Membership(joined.address, joined.started_here, "")

    def context(self) -> RayContext:
        """See `nbray.notebook.Cluster`."""
        assert self._joined is not None, "only a kernel that is in a cluster asks"
        return self._joined.context

    def start(self, options: Mapping[str, Any], namespace: str | None = None) -> None:
        """See `nbray.notebook.Cluster`."""
        self.init("local", **options, **({} if namespace is None else {"namespace": namespace}))

    def for_programs(self) -> dict[str, str]:
        """See `nbray.notebook.Cluster`: for workers."""
        return {}

    def join(self, address: str, *_more: Any, **_options: Any) -> None:
        """See `nbray.notebook.Cluster`."""
        raise refused("%nbray start --address")

    def start_detached(self, words: Sequence[str]) -> str:
        """See `nbray.notebook.Cluster`: ``ray start --head`` by Ray's own command."""
        command = Path(sys.executable).with_name("ray")
        ended = subprocess.run(
            [str(command), "start", "--head", *(w for w in words if w != "--head")],
            capture_output=True, text=True, check=False, start_new_session=True,
        )  # fmt: skip
        if ended.returncode:
            raise RuntimeError(ended.stderr.strip() or ended.stdout.strip())
        return "auto"

    # --- what it is doing --------------------

    def now(self, timeout: float) -> ClusterNow:
        """See `nbray.notebook.Cluster`."""

        def ask() -> ClusterNow:
            return ClusterNow(ray.nodes(), ray.cluster_resources(), ray.available_resources())

        pool = ThreadPoolExecutor(1, "nbray-ray-ask")
        try:
            return pool.submit(ask).result(timeout)
        except NotInTime:
            raise exceptions.GetTimeoutError(f"Ray has not answered within {timeout:g} s") from None
        except ray.exceptions.RayError as error:
            raise exceptions.LocalRayletDiedError(str(error)) from error
        finally:
            pool.shutdown(wait=False)

    def demand(self, timeout: int) -> list[DemandState]:
        """See `nbray.notebook.Cluster`: Ray says what waits, not why."""
        waiting = rows.list_tasks(
            filters=[("state", "=", _WAITING)], detail=True, limit=1000, timeout=timeout,
            raise_on_missing_output=False,
        )  # fmt: skip
        kinds = Counter(
            (
                row.type == "ACTOR_CREATION_TASK",
                tuple(sorted((row.required_resources or {}).items())),
            )
            for row in waiting
        )
        return [
            DemandState(dict(amounts), count, 0.0, "actor" if actor else "task", None, None)
            for (actor, amounts), count in kinds.items()
        ]

    def scaling(self) -> None:
        """See `nbray.notebook.Cluster`: Ray's autoscaler says nothing to its drivers."""

    def set_bounds(self, least: int, most: int, node_type: str = "") -> None:
        """See `nbray.notebook.Cluster`."""
        raise refused("%nbray scale")

    def logs(self) -> Path:
        """See `nbray.notebook.Cluster`.

        Raises:
            NbrayError: this machine has no node of the cluster.
        """
        logs = self._joined.logs if self._joined is not None else None
        if logs is None or not logs.is_dir():
            raise exceptions.NbrayError("This machine has no node of the Ray cluster, and no logs.")
        return logs

    def worker(self, word: str) -> WorkerState | None:
        """See `nbray.notebook.Cluster`."""
        actors = [
            actor
            for actor in rows.list_actors(limit=10_000)
            if actor.name == word or actor.actor_id.startswith(word)
        ]
        pids = {(actor.pid, actor.node_id) for actor in actors}
        for found in rows.list_workers(limit=10_000, raise_on_missing_output=False):
            own = str(found.pid) == word or (len(word) > 7 and found.worker_id.startswith(word))
            if own or (found.pid, found.node_id) in pids:
                return found
        return None
