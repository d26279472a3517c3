"""``ray._private.worker``: the functions of the API, and the worker as one object."""

from __future__ import annotations

from typing import Any

from nbray.calls.api import cancel, get, get_actor, kill, put, remote, wait
from nbray.calls.runtime_context import RuntimeContext, get_gpu_ids
from nbray.common.addresses import split
from nbray.common.ids import ActorID, JobID, NodeID, WorkerID
from nbray.compat.missing import missing_name
from nbray.compat.top import RESTORE_WORKER_MODE, SCRIPT_MODE, SPILL_WORKER_MODE, WORKER_MODE
from nbray.core_worker.core import CoreWorker
from nbray.core_worker.current import find_core, joined_core
from nbray.driver.driver import current_driver, init, is_initialized, shutdown

__all__ = [
    "RESTORE_WORKER_MODE",
    "SCRIPT_MODE",
    "SPILL_WORKER_MODE",
    "WORKER_MODE",
    "cancel",
    "get",
    "get_actor",
    "get_gpu_ids",
    "global_worker",
    "init",
    "is_initialized",
    "kill",
    "print_worker_logs",
    "put",
    "remote",
    "shutdown",
    "wait",
]


class Node:
    """The node of this process, as ``global_worker.node``."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        info = core.session.read_info()
        self.address_info: dict[str, Any] = dict(info)
        self.gcs_address: str = info["gcs_address"]
        self.address: str = info["gcs_address"]
        self.node_ip_address: str = info["node_ip"]
        self.unique_id: str = core.address.node_id.hex()
        self.redis_password = ""

    def get_session_dir_path(self) -> str:
        """The session folder."""
        return str(self._core.session.path)

    def get_logs_dir_path(self) -> str:
        """The folder of its logs."""
        return str(self._core.session.path / "logs")

    def get_temp_dir_path(self) -> str:
        """The folder of sessions."""
        return str(self._core.session.path.parent)

    def is_head(self) -> bool:
        """Whether the GCS runs on this node."""
        return split(self.gcs_address)[0] == self.node_ip_address


class Worker:
    """This process, whatever it is of."""

    def __getattr__(self, name: str) -> Any:
        raise missing_name("ray._private.worker.global_worker", name)

    @property
    def connected(self) -> bool:
        """Whether it is a part of a cluster."""
        return find_core() is not None

    @property
    def mode(self) -> int | None:
        """`SCRIPT_MODE` in a driver, `WORKER_MODE` in a worker, None before `init`."""
        if find_core() is None:
            return None
        return WORKER_MODE if current_driver() is None else SCRIPT_MODE

    @property
    def node(self) -> Node | None:
        """Its node; None before `init`."""
        core = find_core()
        return None if core is None else Node(core)

    @property
    def _context(self) -> RuntimeContext:
        return RuntimeContext(joined_core())

    @property
    def node_ip_address(self) -> str:
        """The address of its node."""
        return joined_core().address.host

    @property
    def worker_id(self) -> bytes:
        """Its id."""
        return WorkerID(joined_core().worker_id).binary()

    @property
    def current_job_id(self) -> JobID:
        """Its job."""
        return self._context.job_id

    @property
    def current_node_id(self) -> NodeID:
        """Its node."""
        return self._context.node_id

    @property
    def actor_id(self) -> ActorID | None:
        """The actor whose method runs; None outside actors."""
        return self._context.actor_id

    @property
    def namespace(self) -> str:
        """Where the names of its job's actors live."""
        return self._context.namespace

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The runtime environment."""
        return self._context.runtime_env

    def check_connected(self) -> None:
        """Raises NbraySystemError before `init`."""
        joined_core()


global_worker = Worker()


def print_worker_logs(data: Any, print_file: Any) -> None:
    """Print lines of output that `nbray.driver.output` would show."""
    for line in data.get("lines", ()):
        print(line, file=print_file)
