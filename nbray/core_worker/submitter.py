"""Normal tasks from submission to reply: leases, windows and retries.

Tasks of the same shape, and with their large arguments on the same node, share a queue and its
leases; a SPREAD task has its lease for itself. A worker gets more
tasks at once the shorter they are: the window aims at `_WINDOW_S` of work and starts at one,
so that long tasks spread over all workers and short ones travel in large batches. A worker
that finds itself busy with a long task gives those behind it back (`TasksReturned`).
A task that may not be run again is pushed to an idle worker only: of several, nobody could say
which had begun when the worker dies.
A lease is kept for `lease_idle_s` after its last task, or until the raylet asks for it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from nbray.core_worker.task_options import TaskOptions
from nbray.exceptions import (
    OutOfMemoryError,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from nbray.wire.messages import (
    Address,
    CancelLeaseRequest,
    LeaseGranted,
    LeaseRefused,
    LeaseSpilled,
    PushTask,
    ReclaimLeases,
    RequestLease,
    ReturnLease,
    TaskDone,
    TaskSpec,
    TasksReturned,
    WorkerDied,
)
from nbray.wire.reactor import Connection
from nbray.wire.strategies import ANYWHERE, Shape, Spread

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

logger = logging.getLogger(__name__)

_WINDOW_S = 0.005
_MAX_WINDOW = 512
_MAX_REQUESTS = 16
_MAX_OOM_DELAY_S = 60.0


class PendingTask:
    """A task whose reply has not come.

    Attributes:
        retries: how often it may still be run again; -1 for ever.
        unresolved: how many of its arguments are not complete yet.
        out_of_memory: how often it was ended since memory ran out.
        parent: the task that submitted it, if one of this process did.
        submitted: when, by `time.monotonic`.
    """

    __slots__ = (
        "function", "key", "killed", "lease", "options", "out_of_memory", "parent", "retries",
        "spec", "submitted", "unresolved",
    )  # fmt: skip

    def __init__(
        self, spec: TaskSpec, function: bytes, options: TaskOptions, parent: bytes = b""
    ) -> None:
        self.spec = spec
        self.function = function
        self.options = options
        self.key: _Key = (options.shape, options.runtime_env, b"")
        self.retries = options.retries
        self.parent = parent
        self.unresolved = 0
        self.killed = False
        self.out_of_memory = 0
        self.submitted = 0.0
        self.lease: Lease | None = None


class Lease:
    """A worker that this process may use now.

    Attributes:
        leaving: it gets no more tasks, and is given back when it has answered for all it got.
        worn: its process ends then.
    """

    __slots__ = (
        "connection", "devices", "idle_since", "in_flight", "lease_id", "leaving", "raylet",
        "worker", "worn",
    )  # fmt: skip

    def __init__(
        self, lease_id: int, worker: Address, connection: Connection, raylet: Connection
    ) -> None:
        self.lease_id = lease_id
        self.worker = worker
        self.connection = connection
        self.raylet = raylet
        self.in_flight: dict[bytes, PendingTask] = {}
        self.idle_since = 0.0
        self.leaving = False
        self.worn = False
        self.devices: dict[str, list[str]] | None = None


_Key = tuple[Shape, str, bytes]


class _Shape:
    """The queue and the leases of one shape, environment, and node where arguments lie, if any."""

    __slots__ = (
        "key", "leases", "near", "once", "queue", "requests", "runtime_env", "seconds", "shape",
    )  # fmt: skip

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.shape, self.runtime_env, self.near = key
        self.once = isinstance(self.shape.strategy, Spread)
        self.queue: deque[PendingTask] = deque()
        self.leases: list[Lease] = []
        self.requests: dict[int, Connection] = {}
        self.seconds = -1.0

    def window(self) -> int:
        if self.seconds < 0 or self.once:
            return 1
        return max(1, min(_MAX_WINDOW, int(_WINDOW_S / max(self.seconds, 1e-6))))


def _refusal(message: LeaseRefused) -> Exception:
    match message.kind:
        case "runtime_env":
            return RuntimeEnvSetupError(message.reason)
        case "unschedulable":
            return TaskUnschedulableError(message.reason)
        case "group_removed":
            return TaskPlacementGroupRemoved()
        case _:
            return RuntimeError(message.reason)


class TaskSubmitter:
    """Gets this process's tasks run."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._shapes: dict[_Key, _Shape] = {}
        self._tasks: dict[bytes, PendingTask] = {}
        self._request_shapes: dict[int, _Shape] = {}
        self._next_request = 0
        self._checking_idle = False
        core.peers.handlers.update(
            {
                LeaseGranted: self._on_granted,
                LeaseSpilled: self._on_spilled,
                LeaseRefused: self._on_refused,
                ReclaimLeases: self._on_reclaim,
                TasksReturned: self._on_returned,
            }
        )
        core.peers.on_closed.append(self._on_closed)

    def accept(self, task: PendingTask) -> None:
        """Take a task whose arguments may still be incomplete."""
        task.unresolved, task.lease = 0, None
        self._tasks[task.spec.task_id] = task

    def enqueue(self, task: PendingTask) -> None:
        """An accepted task's arguments are complete."""
        if task.spec.task_id not in self._tasks:
            return  # it was cancelled meanwhile
        near = self._node_of_arguments(task.spec) if task.spec.dependencies else b""
        task.key = (task.options.shape, task.options.runtime_env, near)
        self._queue_of(task).queue.append(task)

    def _queue_of(self, task: PendingTask) -> _Shape:
        shape = self._shapes.get(task.key)
        if shape is None:
            shape = self._shapes[task.key] = _Shape(task.key)
        return shape

    def _node_of_arguments(self, spec: TaskSpec) -> bytes:
        """The other node that has most bytes of the large arguments; empty if it is this one."""
        held: dict[bytes, int] = {}
        for dependency in spec.dependencies:
            stored = dependency.value.stored if dependency.value is not None else None
            for node_id in stored.node_ids if stored is not None else ():
                held[node_id] = held.get(node_id, 0) + stored.size  # type: ignore[union-attr]
        here = self._core.address.node_id
        if not held or held.get(here, 0) == max(held.values()):
            return b""
        return max(held, key=lambda node_id: (held[node_id], node_id))

    def running(self) -> Iterator[TaskSpec]:
        """The task that each leased worker runs, as far as this process knows."""
        for shape in self._shapes.values():
            for lease in shape.leases:
                for task in lease.in_flight.values():
                    yield task.spec
                    break

    def find(self, task_id: bytes) -> PendingTask | None:
        """That task, if it has no reply yet."""
        return self._tasks.get(task_id)

    def unfinished(self) -> Iterator[PendingTask]:
        """The tasks that have no reply yet, about in the order of submission."""
        return iter(self._tasks.values())

    def dispatch(self) -> None:
        """Push what the windows allow and ask for leases for the rest."""
        for shape in self._shapes.values():
            queue = shape.queue
            if not queue:
                continue
            window = shape.window()
            # Level by level, so that the last tasks of a burst are spread over the workers.
            leases = [lease for lease in shape.leases if not lease.leaving]
            for lease in sorted(leases, key=lambda lease: len(lease.in_flight)):
                share = min(window, -(-len(queue) // len(leases)) + len(lease.in_flight))
                while queue and len(lease.in_flight) < share:
                    if not queue[0].retries and lease.in_flight:
                        break  # it must be known whether a worker that dies had begun it
                    self._push(lease, queue.popleft())
            if queue:
                self._request_leases(shape)

    def _push(self, lease: Lease, task: PendingTask) -> None:
        task.lease = lease
        lease.in_flight[task.spec.task_id] = task
        known = lease.connection.known_functions
        function = None
        if task.spec.function_id not in known:
            known.add(task.spec.function_id)
            function = task.function
        lease.connection.send(PushTask(task.spec, function, lease.devices))

    def _request_leases(self, shape: _Shape) -> None:
        wanted = min(len(shape.queue), _MAX_REQUESTS) - len(shape.requests)
        for _ in range(wanted):
            self._request(shape, self._core.peers.raylet, spilled=False)

    def _request(self, shape: _Shape, raylet: Connection, spilled: bool) -> None:
        self._next_request += 1
        shape.requests[self._next_request] = raylet
        self._request_shapes[self._next_request] = shape
        raylet.send(
            RequestLease(
                self._next_request,
                self._core.job,
                dict(shape.shape.resources),
                len(shape.queue),
                spilled,
                bool(shape.queue) and shape.queue[0].retries != 0,
                shape.runtime_env,
                shape.shape.strategy,
                shape.shape.selector,
                shape.near,
            )
        )

    def _on_granted(self, raylet: Connection, message: LeaseGranted) -> None:
        shape = self._request_shapes.pop(message.request_id, None)
        if shape is not None:
            shape.requests.pop(message.request_id, None)
        if shape is None or not shape.queue:
            raylet.send(ReturnLease(message.lease_id))
            return
        connection = self._core.peers.connect(message.worker)
        lease = Lease(message.lease_id, message.worker, connection, raylet)
        lease.devices = message.devices or None
        lease.idle_since = time.monotonic()
        shape.leases.append(lease)
        self._check_idle_later()
        self._core.submitter_dirty = True

    def _on_spilled(self, _raylet: Connection, message: LeaseSpilled) -> None:
        shape = self._request_shapes.pop(message.request_id, None)
        if shape is None:
            return
        shape.requests.pop(message.request_id, None)
        raylet = self._core.peers.raylet_at(message.node_id, message.host, message.port)
        self._request(shape, raylet, spilled=True)

    def _on_refused(self, _raylet: Connection, message: LeaseRefused) -> None:
        shape = self._request_shapes.pop(message.request_id, None)
        if shape is None:
            return
        shape.requests.pop(message.request_id, None)
        while shape.queue:
            task = shape.queue.popleft()
            self._tasks.pop(task.spec.task_id, None)
            self._core.results.fail(task.spec, _refusal(message))

    def on_done(self, worker_id: bytes, message: TaskDone) -> bool:
        """A reply came. False when the task is not one of this submitter's."""
        task = self._tasks.pop(message.task_id, None)
        if task is None:
            return False
        lease = task.lease
        shape = self._queue_of(task)
        if lease is not None:
            lease.in_flight.pop(message.task_id, None)
            if not lease.in_flight:
                lease.idle_since = time.monotonic()
            if message.leaving:
                lease.leaving = lease.worn = True
            self._retire_if_leaving(shape, lease)
            if shape.once and not lease.in_flight and lease in shape.leases:
                shape.leases.remove(lease)
                lease.raylet.send(ReturnLease(lease.lease_id))
        if shape.seconds < 0:
            shape.seconds = message.seconds
        else:
            shape.seconds += 0.2 * (message.seconds - shape.seconds)
        if (
            message.retry
            and task.retries != 0
            and self._core.results.is_retriable(message, task.options)
        ):
            self._retry(task)
        else:
            self._core.results.finish(task, worker_id, message)
        return True

    def _on_returned(self, _worker: Connection, message: TasksReturned) -> None:
        """Not started: they go to the front of the queue, in their order."""
        self._core.submitter_dirty = True
        for task_id in reversed(message.task_ids):
            task = self._tasks.get(task_id)
            if task is None or task.lease is None:
                continue
            lease, task.lease = task.lease, None
            lease.in_flight.pop(task_id, None)
            shape = self._queue_of(task)
            if not lease.leaving:
                shape.seconds = max(shape.seconds, _WINDOW_S)
            shape.queue.appendleft(task)
            self._retire_if_leaving(shape, lease)

    def _retire_if_leaving(self, shape: _Shape, lease: Lease) -> None:
        """Give a worker that takes no more tasks back, once it has answered for all it got."""
        if lease.leaving and not lease.in_flight and lease in shape.leases:
            shape.leases.remove(lease)
            lease.raylet.send(ReturnLease(lease.lease_id, broken=lease.worn))
            self._core.submitter_dirty = True

    def _retry(self, task: PendingTask) -> None:
        if task.retries > 0:
            task.retries -= 1
        task.lease = None
        task.spec.attempt += 1
        self._tasks[task.spec.task_id] = task
        self._queue_of(task).queue.append(task)
        self._core.submitter_dirty = True

    def cancel(self, task_id: bytes, force: bool) -> Connection | None:
        """Forget a queued task and fail it; the worker's connection of one that runs.

        One that is cancelled is not run again when its worker goes.
        """
        task = self._tasks.get(task_id)
        if task is None:
            return None
        task.retries = 0
        task.killed = task.killed or force
        if task.lease is not None:
            return task.lease.connection
        if not task.unresolved:
            self._queue_of(task).queue.remove(task)
        del self._tasks[task_id]
        self._core.results.fail_cancelled(task.spec)
        return None

    def fail_all(self, error: Exception) -> None:
        """Give all tasks up."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for shape in self._shapes.values():
            shape.queue.clear()
            for lease in shape.leases:
                lease.in_flight.clear()
        for task in tasks:
            self._core.results.fail(task.spec, error)

    def knows(self, task_id: bytes) -> bool:
        """Whether that task has no reply yet."""
        return task_id in self._tasks

    def children(self, parent: bytes) -> list[bytes]:
        """The unfinished tasks that a task of this process submitted."""
        return [task_id for task_id, task in self._tasks.items() if task.parent == parent]

    def _on_closed(self, connection: Connection) -> None:
        """A worker or raylet went: run its tasks again, or fail them."""
        for shape in self._shapes.values():
            for request_id, raylet in list(shape.requests.items()):
                if raylet is connection:
                    del shape.requests[request_id]
                    del self._request_shapes[request_id]
                    # This node's raylet may not know yet that the other is dead: not at once.
                    self._core.reactor.call_later(self._core.config.lease_idle_s, self._ask_again)
            for lease in [lease for lease in shape.leases if lease.connection is connection]:
                shape.leases.remove(lease)
                self._core.submitter_dirty = True
                if not lease.raylet.closed:
                    lease.raylet.send(ReturnLease(lease.lease_id, broken=True))
                if not connection.established:
                    for task in lease.in_flight.values():
                        task.lease = None
                        shape.queue.append(task)
                elif lease.in_flight:
                    self._core.crashes.when_known(
                        lease.worker.worker_id, lease.raylet, partial(self._on_crash, lease)
                    )

    def _on_crash(self, lease: Lease, death: WorkerDied | None) -> None:
        """A worker died: run its tasks again, or fail them.

        It was the first that ran; those behind it may be run again and are not charged for it.
        """
        tasks = list(lease.in_flight.values())
        for task in reversed(tasks[1:]):
            task.lease = None
            self._queue_of(task).queue.appendleft(task)
        self._end_of(tasks[0], lease, death)
        self._core.submitter_dirty = True

    def _end_of(self, task: PendingTask, lease: Lease, death: WorkerDied | None) -> None:
        """Run the task again that a worker died of, or fail it."""
        if death is not None and death.out_of_memory and not task.killed:
            if death.retry and self._retry_later(task, death.cause):
                return
            self._tasks.pop(task.spec.task_id, None)
            self._core.results.fail(task.spec, OutOfMemoryError(death.cause))
        elif task.retries != 0:
            cause = death.cause if death is not None else "its worker died, nobody said how"
            self._core.events.failed(task.spec, WorkerCrashedError(cause))
            self._retry(task)
        else:
            self._tasks.pop(task.spec.task_id, None)
            if task.killed:
                self._core.results.fail_cancelled(task.spec)
            else:
                self._core.results.fail_crashed(task.spec, lease.worker, death)

    def _retry_later(self, task: PendingTask, cause: str) -> bool:
        """Run a task again whose memory was missing, after a while; False if it may not be."""
        config = self._core.config
        if task.retries == 0 or task.out_of_memory == config.task_oom_retries:
            return False
        self._core.events.failed(task.spec, OutOfMemoryError(cause))
        delay = min(_MAX_OOM_DELAY_S, config.task_oom_retry_delay_s * 2**task.out_of_memory)
        task.out_of_memory += 1
        task.lease = None
        task.spec.attempt += 1
        task.unresolved += 1  # it does not stand in the queue meanwhile

        def again() -> None:
            task.unresolved -= 1
            if not task.unresolved:
                self.enqueue(task)
                self._core.submitter_dirty = True

        self._core.reactor.call_later(delay, again)
        return True

    def _ask_again(self) -> None:
        self._core.submitter_dirty = True

    def _on_reclaim(self, raylet: Connection, message: ReclaimLeases) -> None:
        """The raylet has other customers: return what is idle, and those leases in time."""
        self.return_idle()
        for shape in list(self._shapes.values()) if message.lease_ids else ():
            for lease in list(shape.leases):
                if lease.raylet is raylet and lease.lease_id in message.lease_ids:
                    lease.leaving = True
                    self._retire_if_leaving(shape, lease)

    def _check_idle_later(self) -> None:
        if not self._checking_idle:
            self._checking_idle = True
            self._core.reactor.call_later(self._core.config.lease_idle_s, self._check_idle)

    def _check_idle(self) -> None:
        self._checking_idle = False
        self.return_idle(self._core.config.lease_idle_s * 0.9)
        if any(shape.leases or shape.requests for shape in self._shapes.values()):
            self._check_idle_later()

    def return_idle(self, idle_s: float = 0.0) -> None:
        """Give back the workers that have had nothing to do for so many seconds."""
        until = time.monotonic() - idle_s
        for shape in list(self._shapes.values()):
            if shape.queue:
                continue
            for request_id, raylet in list(shape.requests.items()):
                raylet.send(CancelLeaseRequest(request_id))
                del shape.requests[request_id]
                del self._request_shapes[request_id]
            for lease in list(shape.leases):
                if not lease.in_flight and lease.idle_since <= until:
                    shape.leases.remove(lease)
                    lease.raylet.send(ReturnLease(lease.lease_id))
            if not shape.leases and shape.shape.strategy is not ANYWHERE:
                del self._shapes[shape.key]
