"""What code can ask of where it runs: `get_runtime_context`, with Ray's names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nbray.calls.handles import ActorHandle
from nbray.calls.placement_group import current_group
from nbray.common.accelerators import VISIBLE_DEVICES
from nbray.common.ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID
from nbray.common.resources import from_units
from nbray.core_worker.context import TaskContext, running
from nbray.core_worker.run.job_logging import function_name
from nbray.driver.cluster import nodes
from nbray.driver.driver import current_core
from nbray.runtime_env.spec import from_text

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker


class RuntimeContext:
    """Where this code runs. Each question is answered for the task that asks it.

    Examples:
        >>> context = nbray.get_runtime_context()
        >>> context.get_node_id() == nbray.nodes()[0]["NodeID"]
        True
        >>> context.get_task_id() is None  # this is the driver
        True
    """

    def __init__(self, core: CoreWorker) -> None:
        self._core = core

    # --- the cluster, the job, the process --------------------

    @property
    def job_id(self) -> JobID:
        """The job that this code belongs to."""
        return JobID(self._core.job.job_id)

    @property
    def node_id(self) -> NodeID:
        """The node that this process runs on."""
        return NodeID(self._core.address.node_id)

    @property
    def namespace(self) -> str:
        """Where the names of this job's actors live."""
        return self._core.job.namespace

    @property
    def gcs_address(self) -> str:
        """The address of the GCS, as "host:port"."""
        address: str = self._core.session.read_info()["gcs_address"]
        return address

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The runtime environment of this process."""
        return from_text(self._core.runtime_envs.text)

    def get(self) -> dict[str, Any]:
        """The ids of job and node, and of task and actor if there are any, by Ray's keys."""
        facts: dict[str, Any] = {
            "job_id": self.job_id, "node_id": self.node_id, "namespace": self.namespace,
        }  # fmt: skip
        if (task_id := self.task_id) is not None:
            facts["task_id"] = task_id
        if (actor_id := self.actor_id) is not None:
            facts["actor_id"] = actor_id
        return facts

    def get_job_id(self) -> str:
        """The job's id as hexadecimal text."""
        return self.job_id.hex()

    def get_node_id(self) -> str:
        """The node's id as hexadecimal text."""
        return self.node_id.hex()

    def get_worker_id(self) -> str:
        """The process's id as hexadecimal text."""
        return self._core.worker_id.hex()

    def get_temp_dir(self) -> str:
        """The folder of this node's sessions."""
        return str(self._core.session.path.parent)

    def get_session_name(self) -> str:
        """The name of this node's session, which is that of its folder."""
        return self._core.session.path.name

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the node."""
        node_id = self.get_node_id()
        return next((dict(row["Labels"]) for row in nodes() if row["NodeID"] == node_id), {})

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON."""
        return json.dumps(self.runtime_env)

    # --- the task --------------------

    @property
    def task_id(self) -> TaskID | None:
        """The task that runs; None in a driver and in an actor's constructor."""
        task = running.get()
        return TaskID(task.task_id) if task is not None and task.task_id else None

    def get_task_id(self) -> str | None:
        """The task's id as hexadecimal text; None in a driver."""
        return None if self.task_id is None else self.task_id.hex()

    def get_task_name(self) -> str | None:
        """The task's name: its function's, or what the option ``name`` gave; None in a driver."""
        task = running.get()
        return None if task is None else task.name

    def is_canceled(self) -> bool:
        """Whether the task was cancelled: what runs in a thread of an actor asks, and ends.

        Raises:
            RuntimeError: it is called in a driver or in an async actor.
        """
        task, actor = running.get(), self._core.actor
        if task is None or (actor is not None and actor.options.is_async):
            raise RuntimeError(
                "This method is only available in tasks and in actors without async methods."
            )
        return task.task_id in self._core.cancelling.noted

    def get_task_function_name(self) -> str | None:
        """The dotted name of the task's function, with its module; None in a driver."""
        task = running.get()
        return None if task is None else function_name(self._core, task)

    def get_assigned_resources(self) -> dict[str, float]:
        """What this worker was given of its node, by resource name.

        Raises:
            AssertionError: this is no worker.
        """
        from nbray.wire.lease_messages import AskAssigned, Assigned

        self._worker_task()
        if self._core.actor is not None:
            return from_units(self._core.actor.options.resources)
        peers = self._core.peers
        request_id = peers.next_request()
        reply: Assigned = peers.request(("assigned", request_id), AskAssigned(request_id))
        return from_units(reply.resources)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The ids of the accelerators that the task or actor may use, by resource name."""
        ids = self._core.devices.ids
        return {name: list(ids.get(name, ())) for name in VISIBLE_DEVICES}

    def get_resource_ids(self) -> dict[str, list[str]]:
        """The older name of `get_accelerator_ids`."""
        return self.get_accelerator_ids()

    def _worker_task(self) -> TaskContext:
        task = running.get()
        assert task is not None, "This method is only available when the process is a worker."
        return task

    def get_placement_group_id(self) -> str | None:
        """The placement group that the task or actor is in, as hexadecimal text; None for none."""
        group = current_group()
        return None if group is None else group.group_id.hex()

    @property
    def current_placement_group_id(self) -> PlacementGroupID | None:
        """The placement group that the task or actor is in; None for none."""
        group = current_group()
        return None if group is None else PlacementGroupID(group.group_id)

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what is submitted here goes into the same placement group; False in a driver."""
        group = current_group()
        return group is not None and group.capture

    # --- the actor --------------------

    @property
    def actor_id(self) -> ActorID | None:
        """The actor whose method runs; None outside actors."""
        task = running.get()
        return ActorID(task.actor_id) if task is not None and task.actor_id else None

    def get_actor_id(self) -> str | None:
        """The actor's id as hexadecimal text; None outside actors."""
        return None if self.actor_id is None else self.actor_id.hex()

    def get_actor_name(self) -> str | None:
        """The actor's name, empty when it has none; None outside actors."""
        return None if self._core.actor is None else self._core.actor.options.name

    @property
    def current_actor(self) -> ActorHandle:
        """A handle of the actor whose method runs, which does not keep it alive.

        Raises:
            RuntimeError: it is not called in an actor.
        """
        spec = self._core.actor
        if spec is None:
            raise RuntimeError("This method is only available in an actor.")
        return ActorHandle(
            spec.actor_id, spec.class_name, spec.methods, spec.options.max_task_retries,
            spec.options.max_pending_calls, None,
        )  # fmt: skip

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor has been restarted.

        Raises:
            AssertionError: it is not called in an actor.
        """
        from nbray.state.details import get_actor  # rows of all kinds: not at every start

        actor_id = self.get_actor_id()
        assert actor_id is not None, "This method should not be called inside tasks."
        row = get_actor(actor_id)
        return row is not None and bool(row.num_restarts)


def get_runtime_context() -> RuntimeContext:
    """Facts of the process and task that call this.

    Returns:
        The context; each of its answers is for the task that asks.

    Examples:
        >>> context = nbray.get_runtime_context()
        >>> context.get_job_id() == context.job_id.hex()
        True

        >>> @nbray.remote(num_cpus=0.5)
        ... def here():
        ...     context = nbray.get_runtime_context()
        ...     return context.get_task_name(), context.get_assigned_resources()
        >>> nbray.get(here.remote())
        ('here', {'CPU': 0.5})
    """
    return RuntimeContext(current_core())


def get_gpu_ids() -> list[int | str]:
    """The ids of the GPUs that the task or actor may use; those that are numbers as numbers.

    Returns:
        The ids, empty without GPUs.

    Examples:
        >>> nbray.get_gpu_ids()
        []
    """
    ids = current_core().devices.ids.get("GPU", [])
    return [int(device) if device.isdigit() else device for device in ids]
