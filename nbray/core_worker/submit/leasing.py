"""Normal tasks from submission to reply: leases, windows and retries.

Tasks of the same shape, and with their large arguments on the same node, share a queue and its
leases; a SPREAD task has its lease for itself. A worker gets more
tasks at once the shorter they are: the window aims at `WINDOW_S` of work and starts at one,
so that long tasks spread over all workers and short ones travel in large batches. A worker
that finds itself busy with a long task gives those behind it back (`TasksReturned`).
A task that may not be run again is pushed to an idle worker only, and nothing is pushed behind it:
of several, nobody could say which had begun, or had ended, when the worker dies. While tasks are
short, few workers are asked for; as nothing stands behind a long one to be given back, what waits
looks itself whether there is one.
How long a lease is kept after its last task: see `returning`.

It decides and does not act: events come in as calls, with the time as an argument and peers by
their ids, and what is to be done is appended to `decisions`. `dirty` says that tasks may be pushed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

from msgspec.structs import replace

from nbray.common.config import Config
from nbray.common.ids import FIRST
from nbray.core_worker.decisions import (
    AskLease,
    AttemptFailed,
    AttemptRaised,
    Connect,
    Decisions,
    Failed,
    Push,
    SeekArguments,
    WakeAfter,
)
from nbray.core_worker.failures import crashed, task_error
from nbray.core_worker.identity import Identity
from nbray.core_worker.submit.backlogs import Backlogs
from nbray.core_worker.submit.crashes import Crashes
from nbray.core_worker.submit.queues import WINDOW_S, Queues, TaskQueue, node_of_arguments
from nbray.core_worker.submit.returning import Returning
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import (
    AT_WORKER,
    BACKED_OFF,
    BEREFT,
    DOUBTED,
    ENDED,
    IN_DOUBT,
    PUSHED,
    QUEUED,
    READY,
    RETURNED,
    Burst,
    Lease,
    PendingTask,
    cancelled,
)
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.messages import (
    LeaseGranted,
    LeaseRefused,
    LeaseSpilled,
    ReclaimLeases,
    ReturnLease,
    TaskDone,
    TasksReturned,
    WorkerDied,
)
from nbray.wire.records import TaskSpec

_MAX_REQUESTS = 16
_MAX_OOM_DELAY_S = 60.0
_LONG_S = 0.02
IsRetriable = Callable[[TaskDone, TaskOptions], bool]


class Leasing:
    """Gets this process's tasks run. Pure.

    Attributes:
        dirty: tasks may be pushed, or workers asked for: `dispatch` is to be called.
        tasks: those without a reply, by their first objects; those that were just submitted,
            and wait in a queue, are only there.
    """

    def __init__(
        self, me: Identity, config: Config, decisions: Decisions, is_retriable: IsRetriable
    ) -> None:
        """``is_retriable``: whether a task that raised is to be run again."""
        self._me = me
        self._config = config
        self._decisions = decisions
        self._is_retriable = is_retriable
        self.dirty = False
        self.tasks: dict[bytes, PendingTask] = {}
        self._queues = Queues()
        self._backlogs = Backlogs(decisions, self._queues)
        self._crashes = Crashes(decisions, config.worker_death_wait_s)
        self._asking: dict[int, TaskQueue] = {}
        self._next_request = 0
        self._returning = Returning(decisions, self._queues, config.lease_idle_s, self._answered)
        self.return_idle = self._returning.return_idle

    # --- tasks come --------------------

    def enqueue(self, task: PendingTask) -> None:
        """The arguments of a task of `tasks` are complete."""
        if task.first not in self.tasks:
            return  # it was cancelled meanwhile
        if task.dependencies:
            near = node_of_arguments(task.dependencies, self._me.address.node_id)
            if near != task.rare.near:
                task.rare = replace(task.rare, near=near)
        key = task.key if task.rare.near else task.burst.options.key
        task.state = READY[task.state]
        self._queues[key].tasks.append(task)
        self.dirty = True

    def add(self, burst: Burst, first: bytes, args: bytes, now: float) -> None:
        """A new task comes that refers to no objects, and so waits for nothing but a worker."""
        self._queues[burst.options.key].tasks.add(burst, first, args, now)
        self.dirty = True

    def withdraw(self, is_bereft: Callable[[PendingTask], bool]) -> list[PendingTask]:
        """Queued tasks whose arguments are there no more leave the queue; they are returned."""
        withdrawn = self._queues.withdraw(is_bereft)
        for task in withdrawn:
            task.state = BEREFT[task.state]
        return withdrawn

    # --- looked at --------------------

    def find(self, task_id: bytes) -> PendingTask | None:
        """The task of that id, if it has no reply yet."""
        first = task_id + FIRST
        task = self.tasks.get(first)
        if task is None:
            task = self._queues.find(first)
            if task is not None:
                self.tasks[first] = task
        return task

    def running(self) -> Iterator[TaskSpec]:
        """The task that each leased worker runs, as far as this process knows."""
        for queue in self._queues.values():
            for lease in queue.leases:
                for task in lease.in_flight.values():
                    yield task.spec
                    break

    def unfinished(self) -> Iterator[PendingTask]:
        """The tasks that have no reply yet, those that have just come last."""
        new = (arrival.task(first, b"") for first, arrival in self._queues.new())
        return chain(self.tasks.values(), new)

    def children(self, parent: bytes) -> list[bytes]:
        """The unfinished tasks that a task of this process submitted."""
        return [task.task_id for task in self.unfinished() if task.burst.parent == parent]

    # --- pushed --------------------

    def dispatch(self) -> None:
        """Push what the windows allow and ask for leases for the rest."""
        self.dirty = False
        cores = self._me.cores
        for queue in self._queues.values():
            tasks = queue.tasks
            waiting = len(tasks)
            if not waiting:
                continue
            window = queue.window()
            # Level by level, so that the last tasks of a burst are spread over the workers.
            leases = [lease for lease in queue.leases if not lease.leaving]
            if len(leases) > 1:
                leases.sort(key=lambda lease: len(lease.in_flight))
            if len(leases) > cores:  # as many as are worth to be woken: those that are awake first
                del leases[: -queue.workers(leases, cores)]
            held = False
            for lease in leases:
                in_flight = lease.in_flight
                share = min(window, -(-waiting // len(leases)) + len(in_flight))
                if in_flight and not next(iter(in_flight.values())).retries:
                    held = True
                    continue  # its reply may wait for a moment, and the next one crash meanwhile
                pushed: list[PendingTask] = []
                for _ in range(min(waiting, share - len(in_flight))):
                    task = tasks.popleft()
                    if not task.retries and in_flight:
                        self.tasks[task.first] = task  # a worker may die, and had it begun it?
                        tasks.appendleft(task)
                        held = True
                        break
                    task.lease = lease
                    task.state = PUSHED[task.state]
                    in_flight[task.first] = self.tasks[task.first] = task
                    pushed.append(task)
                    if not task.retries:
                        break
                if pushed:
                    waiting -= len(pushed)
                    self._decisions.append(Push(lease.worker, pushed, lease.devices, lease.threads))
            if waiting:
                self._request_leases(queue, queue.workers(leases, cores) - len(leases))
                if held and window > 1 and not queue.watched:
                    self._look_for_long(queue)
        self._returning.settle()

    def _look_for_long(self, queue: TaskQueue) -> None:
        """What waits for an idle worker is not to wait for a long task, which may wait for it."""
        queue.watched = True
        firsts = [next(iter(lease.in_flight)) for lease in queue.leases if lease.in_flight]

        def look(_now: float) -> None:
            queue.watched = False
            self.dirty = True
            if any(first in lease.in_flight for lease in queue.leases for first in firsts):
                queue.seconds = max(queue.seconds, WINDOW_S)

        self._decisions.append(WakeAfter(_LONG_S, look))

    def unsendable(self, task: PendingTask, error: Exception) -> None:
        """A task that was to be pushed cannot travel."""
        if task.lease is not None:
            del task.lease.in_flight[task.first]
        self.refuse(task, error)
        self.dirty = True

    def _request_leases(self, queue: TaskQueue, more: int) -> None:
        wanted = min(more, len(queue.tasks), _MAX_REQUESTS) - len(queue.requests)
        for _ in range(wanted):
            backlog = 1 if queue.requests else len(queue.tasks) - wanted + 1
            self._request(
                queue, AskLease(queue.request(self._number(), self._me.job, False, backlog))
            )

    def _number(self) -> int:
        self._next_request += 1
        return self._next_request

    def _request(self, queue: TaskQueue, ask: AskLease) -> None:
        request_id = ask.request.request_id
        self._decisions.append(ask)
        queue.requests[request_id] = ask.node_id or self._me.address.node_id
        self._asking[request_id] = queue
        self._backlogs.watch()

    def _answered(self, request_id: int) -> TaskQueue | None:
        queue = self._asking.pop(request_id, None)
        if queue is not None:
            queue.requests.pop(request_id, None)
        return queue

    def granted(self, node_id: bytes, message: LeaseGranted, now: float) -> None:
        """A raylet grants a worker."""
        queue = self._answered(message.request_id)
        if queue is None or not queue.tasks:
            self._returning.give_back(node_id, ReturnLease(message.lease_id))
            return
        lease = Lease(
            message.lease_id, message.worker, node_id, message.devices or None, queue.threads,
            queue, now, message.wanted,
        )  # fmt: skip
        queue.leases.append(lease)
        self._decisions.append(Connect(message.worker))
        self._returning.came(lease)
        self._returning.check_later()
        self.dirty = True

    def spilled(self, message: LeaseSpilled) -> None:
        """A raylet knows another that serves the request better."""
        queue = self._answered(message.request_id)
        if queue is not None:
            request = queue.request(self._number(), self._me.job, True)
            self._request(queue, AskLease(request, message.node_id, message.host, message.port))

    def refused(self, message: LeaseRefused) -> None:
        """A raylet says that the request cannot be served."""
        self.request_failed(message.request_id, task_error(message.cause))

    def request_failed(self, request_id: int, error: Exception) -> None:
        """No task of the queue can ever run."""
        queue = self._answered(request_id)
        while queue is not None and queue.tasks:
            self._refuse_next(queue, error)

    def _refuse_next(self, queue: TaskQueue, error: Exception) -> None:
        task = queue.tasks.popleft()
        self.tasks[task.first] = task
        self.refuse(task, error)

    def refuse(self, task: PendingTask, error: Exception) -> None:
        """A task that waits nowhere any more cannot be run."""
        if self.tasks.pop(task.first, None) is not None:
            task.state = ENDED[task.state]
            self._decisions.append(Failed(task.spec, error))

    # --- answered --------------------

    def done(
        self, task: PendingTask, worker_id: bytes, message: TaskDone, now: float
    ) -> PendingTask | None:
        """A reply for a task of `tasks` came: the task if it has ended, None if it runs again."""
        lease = task.lease
        if lease is None or task.state is not AT_WORKER:
            return None  # of a worker that was given up meanwhile
        queue = lease.queue
        in_flight = lease.in_flight
        in_flight.pop(task.first, None)
        if message.leaving:
            lease.leaving = lease.worn = True
        if not in_flight:
            lease.idle_since = now
            self._returning.idle(lease)
        queue.ran(message.seconds)
        self.dirty = True
        if message.retry and task.retries != 0 and self._is_retriable(message, task.options):
            self._decisions.append(AttemptRaised(task.spec, worker_id, message))
            self._retry(task)
            return None
        del self.tasks[task.first]
        task.state = ENDED[task.state]
        return task

    def returned(self, message: TasksReturned, now: float) -> None:
        """Not started: they go to the front of the queue, in their order."""
        self.dirty = True
        for task_id in reversed(message.task_ids):
            task = self.tasks.get(task_id + FIRST)
            if task is None or task.state is not AT_WORKER:
                continue
            lease, task.lease = task.lease, None
            assert lease is not None
            lease.in_flight.pop(task.first, None)
            if message.lost:
                if not lease.in_flight:
                    lease.idle_since = now
                if task.rare.cancelled:
                    self._queue_again(task)
                else:
                    task.state = BEREFT[task.state]
                    self._decisions.append(SeekArguments(task, message.lost))
            else:
                if not lease.leaving and not message.forgotten:
                    lease.queue.seconds = max(lease.queue.seconds, WINDOW_S)
                self._queue_again(task)
            if not lease.in_flight:
                self._returning.idle(lease)

    def _queue_again(self, task: PendingTask) -> None:
        """A worker did not begin it: it is the next for another, unless it was cancelled there."""
        task.lease = None
        if task.rare.cancelled:
            self.refuse(task, cancelled(task.spec))
        else:
            task.state = RETURNED[task.state]
            self._queues[task.key].tasks.appendleft(task)

    def _retry(self, task: PendingTask) -> None:
        task.lease = None
        task.again()
        task.state = RETURNED[task.state]
        self._queues[task.key].tasks.append(task)
        self.dirty = True

    def cancel(self, task_id: bytes, force: bool) -> bytes:
        """Forget a queued task and fail it; the worker's id of one that runs.

        One that is cancelled is not run again when its worker goes.
        """
        task = self.find(task_id)
        assert task is not None
        task.retries = 0
        if force:
            task.rare = replace(task.rare, killed=True)
        if task.lease is not None:
            task.rare = replace(task.rare, cancelled=True)
            return task.lease.worker.worker_id
        if task.state is QUEUED:
            self._queues[task.key].tasks.remove(task.first)
        self.refuse(task, cancelled(task.spec))
        return b""

    def fail_all(self, error: Exception) -> None:
        """Give all tasks up."""
        for queue in self._queues.values():
            while queue.tasks:
                self._refuse_next(queue, error)
            for lease in queue.leases:
                lease.in_flight.clear()
        for task in list(self.tasks.values()):
            self.refuse(task, error)

    # --- workers and raylets end --------------------

    def worker_died(self, message: WorkerDied) -> None:
        """A raylet tells how a worker of ours has ended."""
        self._crashes.worker_died(message)

    def raylet_gone(self, node_id: bytes) -> None:
        """A raylet has ended: what it was asked for is asked for again."""
        self._crashes.raylet_gone(node_id)
        for queue in self._queues.values():
            for request_id in [i for i, raylet in queue.requests.items() if raylet == node_id]:
                self._answered(request_id)
                # This node's raylet may not know yet that the other is dead: not at once.
                self._decisions.append(WakeAfter(self._config.lease_idle_s, self._ask_again))
            for lease in queue.leases:
                if lease.raylet == node_id:
                    lease.raylet = b""

    def _ask_again(self, _now: float) -> None:
        self.dirty = True

    def worker_gone(self, worker_id: bytes, established: bool) -> None:
        """A worker ended: run its tasks again, or fail them; ``established``: it was ever met."""
        for queue in self._queues.values():
            for lease in [each for each in queue.leases if each.worker.worker_id == worker_id]:
                queue.leases.remove(lease)
                self.dirty = True
                broken = ReturnLease(lease.lease_id, broken=True)
                self._returning.give_back(lease.raylet, broken)
                if not established:
                    for task in reversed(lease.in_flight.values()):
                        self._queue_again(task)
                elif lease.in_flight:
                    for task in lease.in_flight.values():
                        task.state = DOUBTED[task.state]
                    self._crashes.when_known(worker_id, lease.raylet, partial(self._crash, lease))

    def _crash(self, lease: Lease, cause: Cause | None) -> None:
        """A worker died: run its tasks again, or fail them.

        It was the first that ran; those behind it may be run again and are not charged for it.
        """
        tasks = [task for task in lease.in_flight.values() if task.state is IN_DOUBT]
        if not tasks:
            return  # all was given up meanwhile
        for task in reversed(tasks[1:]):
            self._queue_again(task)
        self._end_of(tasks[0], lease, cause)
        self.dirty = True

    def _end_of(self, task: PendingTask, lease: Lease, cause: Cause | None) -> None:
        """Run the task again that a worker died of, or fail it."""
        if cause is None:
            node = lease.worker.node_id
            text = f"its node {node.hex()[:8]} died too, or did not say why in time"
            cause = Cause(CauseKind.ENDED, text, node_id=node)
        if cause.kind is CauseKind.OUT_OF_MEMORY and not task.rare.killed:
            if not (cause.again and self._retry_later(task, cause)):
                self.refuse(task, task_error(cause))
        elif task.retries != 0:
            self._decisions.append(AttemptFailed(task.spec, task.rare.attempt, task_error(cause)))
            self._retry(task)
        elif task.rare.killed:
            self.refuse(task, cancelled(task.spec))
        else:
            self.refuse(task, crashed(task.burst.name, cause))

    def _retry_later(self, task: PendingTask, cause: Cause) -> bool:
        """Run a task again whose memory was missing, after a while; False if it may not be."""
        config = self._config
        times = task.rare.out_of_memory
        if task.retries == 0 or times == config.task_oom_retries:
            return False
        self._decisions.append(AttemptFailed(task.spec, task.rare.attempt, task_error(cause)))
        delay = min(_MAX_OOM_DELAY_S, config.task_oom_retry_delay_s * 2**times)
        task.rare = replace(task.rare, out_of_memory=times + 1)
        task.lease = None
        task.next_attempt()
        task.state = BACKED_OFF[task.state]
        self._decisions.append(WakeAfter(delay, lambda _now: self.enqueue(task)))
        return True

    # --- workers are given back --------------------

    def reclaimed(self, node_id: bytes, message: ReclaimLeases) -> None:
        """The raylet has other customers: those leases go in time, and what is idle at once."""
        self._returning.wanted(node_id)
        for queue in self._queues.values() if message.lease_ids else ():
            for lease in list(queue.leases):
                if lease.raylet == node_id and lease.lease_id in message.lease_ids:
                    lease.leaving = True
                    if not lease.in_flight:
                        self._returning.idle(lease)
        self.dirty = True
