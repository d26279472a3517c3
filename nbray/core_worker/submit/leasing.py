"""Normal tasks from submission to reply: leases, windows and retries.

Tasks of the same shape, and with their large arguments on the same node, share a queue and its
leases; a SPREAD task has its lease for itself. A worker gets more
tasks at once the shorter they are: the window aims at `WINDOW_S` of work and starts at one,
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

from nbray.core_worker.failures import task_error
from nbray.core_worker.submit.backlogs import Backlogs
from nbray.core_worker.tasks import WINDOW_S, Lease, PendingTask, QueueKey, TaskQueue
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.connection import Connection
from nbray.wire.frames import UnsendableError
from nbray.wire.messages import (
    CancelLeaseRequest,
    LeaseGranted,
    LeaseRefused,
    LeaseSpilled,
    PushTask,
    ReclaimLeases,
    RequestLease,
    ReturnLease,
    TaskDone,
    TasksReturned,
)
from nbray.wire.records import TaskSpec
from nbray.wire.strategies import ANYWHERE

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

logger = logging.getLogger(__name__)

_MAX_REQUESTS = 16
_MAX_OOM_DELAY_S = 60.0


class TaskSubmitter:
    """Gets this process's tasks run."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._queues: dict[QueueKey, TaskQueue] = {}
        self._backlogs = Backlogs(core, self._queues)
        self._tasks: dict[bytes, PendingTask] = {}
        self._asking: dict[int, TaskQueue] = {}
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

    def refuse(self, task: PendingTask, error: Exception) -> None:
        """An accepted task cannot be run."""
        if self._tasks.pop(task.spec.task_id, None) is not None:
            self._core.results.fail(task.spec, error)

    def enqueue(self, task: PendingTask) -> None:
        """An accepted task's arguments are complete."""
        if task.spec.task_id not in self._tasks:
            return  # it was cancelled meanwhile
        near = self._node_of_arguments(task.spec) if task.spec.dependencies else b""
        task.key = (task.options.shape, task.options.runtime_env, near)
        self._queue_of(task).tasks.append(task)

    def _queue_of(self, task: PendingTask) -> TaskQueue:
        queue = self._queues.get(task.key)
        if queue is None:
            queue = self._queues[task.key] = TaskQueue(task.key)
        return queue

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
        for queue in self._queues.values():
            for lease in queue.leases:
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
        for queue in self._queues.values():
            tasks = queue.tasks
            if not tasks:
                continue
            window = queue.window()
            # Level by level, so that the last tasks of a burst are spread over the workers.
            leases = [lease for lease in queue.leases if not lease.leaving]
            for lease in sorted(leases, key=lambda lease: len(lease.in_flight)):
                share = min(window, -(-len(tasks) // len(leases)) + len(lease.in_flight))
                while tasks and len(lease.in_flight) < share:
                    if not tasks[0].retries and lease.in_flight:
                        break  # it must be known whether a worker that dies had begun it
                    self._push(lease, tasks.popleft())
            if tasks:
                self._request_leases(queue)

    def _push(self, lease: Lease, task: PendingTask) -> None:
        task.lease = lease
        lease.in_flight[task.spec.task_id] = task
        known = lease.connection.known_functions
        function_id = task.spec.function_id
        function = None if function_id in known else task.function.data
        try:
            lease.connection.send(PushTask(task.spec, function, lease.devices, lease.threads))
        except UnsendableError as error:
            del lease.in_flight[task.spec.task_id]
            del self._tasks[task.spec.task_id]
            self._core.results.fail(task.spec, error)
            return
        known.add(function_id)

    def _request_leases(self, queue: TaskQueue) -> None:
        wanted = min(len(queue.tasks), _MAX_REQUESTS) - len(queue.requests)
        for _ in range(wanted):
            backlog = 1 if queue.requests else len(queue.tasks) - wanted + 1
            self._request(queue, self._core.peers.raylet, False, backlog)

    def _request(
        self, queue: TaskQueue, raylet: Connection, spilled: bool, backlog: int = 1
    ) -> None:
        self._next_request += 1
        request = RequestLease(
            self._next_request,
            self._core.job,
            dict(queue.shape.resources),
            backlog,
            spilled,
            bool(queue.tasks) and queue.tasks[0].retries != 0,
            queue.runtime_env,
            queue.shape.strategy,
            queue.shape.selector,
            queue.near,
        )
        try:
            raylet.send(request)
        except UnsendableError as error:
            self._fail_queue(queue, error)
            return
        queue.requests[self._next_request] = raylet
        self._backlogs.watch()
        self._asking[self._next_request] = queue

    def _on_granted(self, raylet: Connection, message: LeaseGranted) -> None:
        queue = self._asking.pop(message.request_id, None)
        if queue is not None:
            queue.requests.pop(message.request_id, None)
        if queue is None or not queue.tasks:
            raylet.send(ReturnLease(message.lease_id))
            return
        connection = self._core.peers.connect(message.worker)
        lease = Lease(message.lease_id, message.worker, connection, raylet)
        lease.devices = message.devices or None
        lease.threads = queue.threads
        lease.idle_since = time.monotonic()
        queue.leases.append(lease)
        self._check_idle_later()
        self._core.submitter_dirty = True

    def _on_spilled(self, _raylet: Connection, message: LeaseSpilled) -> None:
        queue = self._asking.pop(message.request_id, None)
        if queue is None:
            return
        queue.requests.pop(message.request_id, None)
        raylet = self._core.peers.raylet_at(message.node_id, message.host, message.port)
        self._request(queue, raylet, spilled=True)

    def _on_refused(self, _raylet: Connection, message: LeaseRefused) -> None:
        queue = self._asking.pop(message.request_id, None)
        if queue is None:
            return
        queue.requests.pop(message.request_id, None)
        self._fail_queue(queue, task_error(message.cause))

    def _fail_queue(self, queue: TaskQueue, error: Exception) -> None:
        """No task of the queue can ever run."""
        while queue.tasks:
            task = queue.tasks.popleft()
            self._tasks.pop(task.spec.task_id, None)
            self._core.results.fail(task.spec, error)

    def on_done(self, worker_id: bytes, message: TaskDone) -> bool:
        """A reply came. False when the task is not one of this submitter's."""
        task = self._tasks.pop(message.task_id, None)
        if task is None:
            return False
        lease = task.lease
        queue = self._queue_of(task)
        if lease is not None:
            lease.in_flight.pop(message.task_id, None)
            if not lease.in_flight:
                lease.idle_since = time.monotonic()
            if message.leaving:
                lease.leaving = lease.worn = True
            self._retire_if_leaving(queue, lease)
            if queue.once and not lease.in_flight and lease in queue.leases:
                queue.leases.remove(lease)
                lease.raylet.send(ReturnLease(lease.lease_id))
        if queue.seconds < 0:
            queue.seconds = message.seconds
        else:
            queue.seconds += 0.2 * (message.seconds - queue.seconds)
        if (
            message.retry
            and task.retries != 0
            and self._core.results.is_retriable(message, task.options)
        ):
            self._core.results.forget_attempt(task.spec, worker_id, message)
            self._retry(task)
        else:
            self._core.results.finish(task, worker_id, message)
        return True

    def _on_returned(self, worker: Connection, message: TasksReturned) -> None:
        """Not started: they go to the front of the queue, in their order."""
        worker.known_functions.difference_update(message.forgotten)
        self._core.submitter_dirty = True
        for task_id in reversed(message.task_ids):
            task = self._tasks.get(task_id)
            if task is None or task.lease is None:
                continue
            lease, task.lease = task.lease, None
            lease.in_flight.pop(task_id, None)
            queue = self._queue_of(task)
            if message.lost:
                if not lease.in_flight:
                    lease.idle_since = time.monotonic()
                if task.cancelled:
                    self._queue_again(task)
                else:
                    self._core.dependencies.find(task, message.lost)
                self._retire_if_leaving(queue, lease)
                continue
            if not lease.leaving and not message.forgotten:
                queue.seconds = max(queue.seconds, WINDOW_S)
            self._queue_again(task)
            self._retire_if_leaving(queue, lease)

    def await_lost_arguments(self) -> None:
        """Values of this process were lost: tasks that need them leave the queue until then."""
        entry_of = self._core.table.get
        for queue in list(self._queues.values()):
            waiting: list[PendingTask] = []
            for task in queue.tasks:
                for dependency in task.spec.dependencies:
                    entry = entry_of(dependency.object_id)
                    if entry is not None and entry.owner is None and entry.value is None:
                        waiting.append(task)
                        break
            if waiting:
                gone = set(map(id, waiting))
                queue.tasks = deque(task for task in queue.tasks if id(task) not in gone)
                for task in waiting:
                    self._core.dependencies.resolve_again(task)

    def _queue_again(self, task: PendingTask) -> None:
        """A worker did not begin it: it is the next for another, unless it was cancelled there."""
        task.lease = None
        if task.cancelled:
            del self._tasks[task.spec.task_id]
            self._core.results.fail_cancelled(task.spec)
        else:
            self._queue_of(task).tasks.appendleft(task)

    def _retire_if_leaving(self, queue: TaskQueue, lease: Lease) -> None:
        """Give a worker that takes no more tasks back, once it has answered for all it got."""
        if lease.leaving and not lease.in_flight and lease in queue.leases:
            queue.leases.remove(lease)
            lease.raylet.send(ReturnLease(lease.lease_id, worn=lease.worn))
            self._core.submitter_dirty = True

    def _retry(self, task: PendingTask) -> None:
        if task.retries > 0:
            task.retries -= 1
        task.lease = None
        task.spec.attempt += 1
        self._tasks[task.spec.task_id] = task
        self._queue_of(task).tasks.append(task)
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
            task.cancelled = True
            return task.lease.connection
        if not task.unresolved:
            self._queue_of(task).tasks.remove(task)
        del self._tasks[task_id]
        self._core.results.fail_cancelled(task.spec)
        return None

    def fail_all(self, error: Exception) -> None:
        """Give all tasks up."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for queue in self._queues.values():
            queue.tasks.clear()
            for lease in queue.leases:
                lease.in_flight.clear()
        for task in tasks:
            self._core.results.fail(task.spec, error)

    def knows(self, task_id: bytes) -> bool:
        """Whether that task has no reply yet."""
        return task_id in self._tasks

    def children(self, parent: bytes) -> list[bytes]:
        """The unfinished tasks that a task of this process submitted."""
        return [task_id for task_id, task in self._tasks.items() if task.spec.parent == parent]

    def _on_closed(self, connection: Connection) -> None:
        """A worker or raylet went: run its tasks again, or fail them."""
        for queue in self._queues.values():
            for request_id, raylet in list(queue.requests.items()):
                if raylet is connection:
                    del queue.requests[request_id]
                    del self._asking[request_id]
                    # This node's raylet may not know yet that the other is dead: not at once.
                    self._core.reactor.call_later(self._core.config.lease_idle_s, self._ask_again)
            for lease in [lease for lease in queue.leases if lease.connection is connection]:
                queue.leases.remove(lease)
                self._core.submitter_dirty = True
                if not lease.raylet.closed:
                    lease.raylet.send(ReturnLease(lease.lease_id, broken=True))
                if not connection.established:
                    for task in lease.in_flight.values():
                        task.lease = None
                        queue.tasks.append(task)
                elif lease.in_flight:
                    self._core.crashes.when_known(
                        lease.worker.worker_id, lease.raylet, partial(self._on_crash, lease)
                    )

    def _on_crash(self, lease: Lease, cause: Cause | None) -> None:
        """A worker died: run its tasks again, or fail them.

        It was the first that ran; those behind it may be run again and are not charged for it.
        """
        tasks = list(lease.in_flight.values())
        for task in reversed(tasks[1:]):
            self._queue_again(task)
        self._end_of(tasks[0], lease, cause)
        self._core.submitter_dirty = True

    def _end_of(self, task: PendingTask, lease: Lease, cause: Cause | None) -> None:
        """Run the task again that a worker died of, or fail it."""
        if cause is None:
            node = lease.worker.node_id
            text = f"its node {node.hex()[:8]} died too, or did not say why in time"
            cause = Cause(CauseKind.ENDED, text, node_id=node)
        if cause.kind is CauseKind.OUT_OF_MEMORY and not task.killed:
            if cause.again and self._retry_later(task, cause):
                return
            self._tasks.pop(task.spec.task_id, None)
            self._core.results.fail(task.spec, task_error(cause))
        elif task.retries != 0:
            self._core.events.failed(task.spec, task_error(cause))
            self._retry(task)
        else:
            self._tasks.pop(task.spec.task_id, None)
            if task.killed:
                self._core.results.fail_cancelled(task.spec)
            else:
                self._core.results.fail_crashed(task.spec, cause)

    def _retry_later(self, task: PendingTask, cause: Cause) -> bool:
        """Run a task again whose memory was missing, after a while; False if it may not be."""
        config = self._core.config
        if task.retries == 0 or task.out_of_memory == config.task_oom_retries:
            return False
        self._core.events.failed(task.spec, task_error(cause))
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
        for queue in list(self._queues.values()) if message.lease_ids else ():
            for lease in list(queue.leases):
                if lease.raylet is raylet and lease.lease_id in message.lease_ids:
                    lease.leaving = True
                    self._retire_if_leaving(queue, lease)

    def _check_idle_later(self) -> None:
        if not self._checking_idle:
            self._checking_idle = True
            self._core.reactor.call_later(self._core.config.lease_idle_s, self._check_idle)

    def _check_idle(self) -> None:
        self._checking_idle = False
        self.return_idle(self._core.config.lease_idle_s * 0.9)
        if any(queue.leases or queue.requests for queue in self._queues.values()):
            self._check_idle_later()

    def return_idle(self, idle_s: float = 0.0) -> None:
        """Give back the workers that have had nothing to do for so many seconds."""
        until = time.monotonic() - idle_s
        for queue in list(self._queues.values()):
            if queue.tasks:
                continue
            for request_id, raylet in list(queue.requests.items()):
                raylet.send(CancelLeaseRequest(request_id))
                del queue.requests[request_id]
                del self._asking[request_id]
            for lease in list(queue.leases):
                if not lease.in_flight and lease.idle_since <= until:
                    queue.leases.remove(lease)
                    lease.raylet.send(ReturnLease(lease.lease_id))
            if not queue.leases and queue.shape.strategy is not ANYWHERE:
                del self._queues[queue.key]
