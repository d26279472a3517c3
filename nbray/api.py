"""The public functions."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nbray.actor import ActorClass, ActorHandle, find_actor
from nbray.common.accelerators import VISIBLE_DEVICES
from nbray.common.resources import from_units
from nbray.core_worker.context import running
from nbray.core_worker.streams import ObjectRefGenerator
from nbray.driver import current_core
from nbray.object_ref import ObjectRef
from nbray.remote_function import RemoteFunction
from nbray.runtime_env.spec import from_text
from nbray.state import queries
from nbray.state.trace import chrome_trace
from nbray.wire.gcs_messages import Empty, Nodes
from nbray.wire.messages import NodeInfo


def remote(*args: Any, **options: Any) -> Any:
    """Make a function a `RemoteFunction` or a class an `ActorClass`; also with options.

    Raises:
        TypeError: it is neither a function nor a class.
        ValueError: an option is unknown.
    """
    if args:
        if len(args) > 1 or options:
            raise TypeError("Use @nbray.remote, or @nbray.remote(option=value, ...).")
        return _make_remote(args[0], {})
    if not options:
        raise TypeError("Use @nbray.remote without parentheses when there are no options.")
    return lambda target: _make_remote(target, options)


def _make_remote(target: Any, options: dict[str, Any]) -> RemoteFunction | ActorClass:
    if inspect.isclass(target):
        return ActorClass(target, options)
    if callable(target):
        return RemoteFunction(target, options)
    raise TypeError("The @nbray.remote decorator must be applied to a function or a class.")


def get(refs: ObjectRef | Sequence[ObjectRef], *, timeout: float | None = None) -> Any:
    """The value of a ref, or the values of a list of refs.

    Args:
        refs: one ref, or a list.
        timeout: seconds; None waits for ever.

    Raises:
        GetTimeoutError: not all were ready in time.
        TaskError: a task failed; also an instance of the user's exception class.
        ValueError: something else than refs was given.
    """
    if isinstance(refs, ObjectRef):
        return current_core().get([refs], timeout)[0]
    if isinstance(refs, ObjectRefGenerator):
        return refs
    if not isinstance(refs, list | tuple) or not all(isinstance(r, ObjectRef) for r in refs):
        raise ValueError(
            f"Invalid type of object refs, {type(refs)}, is given. 'object_refs' must either be "
            "an ObjectRef or a list of ObjectRefs."
        )
    return current_core().get(refs, timeout)


def put(value: Any) -> ObjectRef:
    """Store ``value`` and return its ref.

    Raises:
        TypeError: ``value`` is a ref already.
        ObjectStoreFullError: there is no room.
    """
    if isinstance(value, ObjectRef):
        raise TypeError("Calling 'put' on an ObjectRef is not allowed.")
    return current_core().put(value)


def wait(
    refs: Sequence[ObjectRef],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Wait until ``num_returns`` of ``refs`` are ready, or ``timeout`` seconds are over.

    Returns:
        At most ``num_returns`` ready refs, and all others, in the given order.

    Raises:
        TypeError: ``refs`` is one ref. ValueError: duplicates, or an impossible number.
    """
    del fetch_local  # a value that is ready is brought here when it is read
    if isinstance(refs, ObjectRef):
        raise TypeError("wait() expected a list of ObjectRef, got a single ObjectRef")
    if len(set(refs)) != len(refs):
        raise ValueError("Wait requires a list of unique object refs.")
    if num_returns <= 0:
        raise ValueError(f"Invalid number of objects to return {num_returns}.")
    if num_returns > len(refs):
        raise ValueError("num_returns cannot be greater than the number of refs given to wait().")
    return current_core().values.wait(refs, num_returns, timeout)


def cancel(
    ref: ObjectRef | ObjectRefGenerator, *, force: bool = False, recursive: bool = True
) -> None:
    """Stop the task that makes ``ref``: queued, or running (by a KeyboardInterrupt in it).

    A running call of an async actor is cancelled as a coroutine; one that runs in a thread of a
    concurrent actor goes on.

    Args:
        ref: a ref, or the generator of a stream.
        force: end the worker's process; not for calls of actors.
        recursive: stop the tasks that the task submitted, too.

    Raises:
        TypeError: something else was given.
        ValueError: ``force`` was given for a call of an actor.
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = ref.completed()
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"nbray.cancel() only supported for object refs. Got: {type(ref)}.")
    core = current_core()
    if force and core.actor_calls.knows(ref._id[:24]):
        raise ValueError("force=True is not supported for actor tasks.")
    core.cancel(ref._id, force, recursive)


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor's process at once."""
    if not isinstance(actor, ActorHandle):
        raise ValueError("nbray.kill() only supported for actors.")
    current_core().actor_calls.kill(actor._actor_id, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The named actor.

    Raises:
        ValueError: there is none of that name.
    """
    found = find_actor(name, namespace or current_core().job.namespace)
    if found is None:
        raise ValueError(f"Failed to look up actor with name '{name}'.")
    return found


def _node_rows() -> list[NodeInfo]:
    reply = current_core().peers.gcs_call("ListNodes", msgspec.msgpack.encode(Empty()))
    return msgspec.msgpack.decode(reply, type=Nodes).nodes


def nodes() -> list[dict[str, Any]]:
    """A dict for every node, with Ray's keys."""
    return [
        {
            "NodeID": row.node_id.hex(),
            "Alive": row.alive,
            "NodeManagerAddress": row.host,
            "NodeManagerHostname": row.hostname,
            "NodeManagerPort": row.frame_port,
            "Resources": from_units(row.total) if row.alive else {},
            "Stats": row.stats,
            "Labels": row.labels,
        }
        for row in _node_rows()
    ]


def _sum(rows: list[dict[str, int]]) -> dict[str, float]:
    total: dict[str, int] = {}
    for row in rows:
        for name, amount in row.items():
            total[name] = total.get(name, 0) + amount
    return from_units(total)


def cluster_resources() -> dict[str, float]:
    """All resources of the nodes that are alive."""
    return _sum([row.total for row in _node_rows() if row.alive])


def available_resources() -> dict[str, float]:
    """The resources that are free now, as last reported by the raylets."""
    return _sum([row.available for row in _node_rows() if row.alive])


@dataclass(frozen=True)
class RuntimeContext:
    """Where this code runs."""

    job_id: str
    node_id: str
    worker_id: str
    task_id: str | None
    actor_id: str | None
    namespace: str
    runtime_env: dict[str, Any]

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON."""
        return json.dumps(self.runtime_env)

    def get_job_id(self) -> str:
        """The job's id as hexadecimal text."""
        return self.job_id

    def get_node_id(self) -> str:
        """The node's id as hexadecimal text."""
        return self.node_id

    def get_worker_id(self) -> str:
        """The process's id as hexadecimal text."""
        return self.worker_id

    def get_task_id(self) -> str | None:
        """The running task's id, None in a driver."""
        return self.task_id

    def get_actor_id(self) -> str | None:
        """The actor's id, None outside an actor."""
        return self.actor_id

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The ids of the accelerators that the task or actor may use, by resource name."""
        ids = current_core().devices.ids
        return {name: list(ids.get(name, ())) for name in VISIBLE_DEVICES}


def get_gpu_ids() -> list[int | str]:
    """The ids of the GPUs that the task or actor may use; those that are numbers as numbers."""
    ids = current_core().devices.ids.get("GPU", [])
    return [int(device) if device.isdigit() else device for device in ids]


def get_runtime_context() -> RuntimeContext:
    """Facts of the process and task that call this."""
    core = current_core()
    task = running.get()
    return RuntimeContext(
        core.job.job_id.hex(), core.address.node_id.hex(), core.worker_id.hex(),
        task.task_id.hex() if task and task.task_id else None,
        task.actor_id.hex() if task and task.actor_id else None,
        core.job.namespace, from_text(core.runtime_envs.text),
    )  # fmt: skip


_MOST_TRACED = 100_000


def timeline(filename: str | Path | None = None) -> list[dict[str, Any]] | None:
    """The tasks and actor calls that the cluster remembers, as a Chrome trace.

    At high rates not every short task is remembered; see `nbray.core_worker.task_events`.

    Args:
        filename: write it there as JSON, for chrome://tracing or ui.perfetto.dev.

    Returns:
        The events, if there is no ``filename``.
    """
    query = queries.tasks(_MOST_TRACED)
    found = query.read(current_core().peers.gcs_call(query.method, query.body))
    events = chrome_trace(found.rows, time.time() * 1000)
    if filename is None:
        return events
    Path(filename).write_text(json.dumps(events))
    return None
