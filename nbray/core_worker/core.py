"""CoreWorker: what a driver and a worker share.

The life of a task, told once. `submit_task` (any thread) makes the refs and puts the task into
an inbox. The holder of the reactor's baton takes it from there: `Dependencies` waits until its
arguments are complete and puts small ones into the spec; `TaskSubmitter` leases a worker and
pushes it; the worker's `Executor` runs it and replies; `Results.finish` completes the objects,
which wakes whoever waits in `get`.

Its parts, each with its own messages: `peers` (connections and requests), `references` (the
ownership table and borrowing), `values` (store, get, wait), `submitter`, `actor_calls`, `results`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Token
from pathlib import Path
from typing import Any

from nbray.common.accelerators import VisibleDevices
from nbray.common.config import Config
from nbray.common.ids import TaskIDFactory, handle_id, return_id
from nbray.common.session import Session
from nbray.core_worker.call_site import where_made
from nbray.core_worker.cancelling import Cancelling
from nbray.core_worker.context import TaskContext, current_origin, running
from nbray.core_worker.dependencies import Dependencies
from nbray.core_worker.own.counting import References
from nbray.core_worker.own.lineage import Lineage
from nbray.core_worker.own.locations import Locations
from nbray.core_worker.own.streams import STREAMING, ObjectRefGenerator, Streams
from nbray.core_worker.peers import Peers
from nbray.core_worker.results import Results
from nbray.core_worker.runtime_envs import RuntimeEnvs
from nbray.core_worker.submit.actor_creation import ActorCreations
from nbray.core_worker.submit.calls import ActorCall, ActorCalls
from nbray.core_worker.submit.crashes import Crashes
from nbray.core_worker.submit.groups import PlacementGroups
from nbray.core_worker.submit.leasing import TaskSubmitter
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import PendingTask, PickledFunction
from nbray.core_worker.tell.held_objects import HeldObjects
from nbray.core_worker.tell.metrics import recorded
from nbray.core_worker.tell.task_counts import TaskCounts
from nbray.core_worker.tell.task_events import TaskEventLog
from nbray.core_worker.values import arguments
from nbray.core_worker.values.reading import Values
from nbray.core_worker.values.serialization import Serialized, serialize
from nbray.core_worker.values.stored import StoredValues
from nbray.exceptions import NbraySystemError
from nbray.object_ref import ObjectRef
from nbray.wire import messages as m
from nbray.wire import watching_messages as wm
from nbray.wire.connection import Connection
from nbray.wire.connections import Connections
from nbray.wire.reactor import STOPPED, Reactor
from nbray.wire.records import ActorSpec, Address, JobConfig, TaskSpec, Value
from nbray.wire.strategies import InGroup, Strategy

logger = logging.getLogger(__name__)


class CoreWorker:
    """The runtime of one process; see the head of this module."""

    def __init__(self, config: Config, token: bytes, worker_id: bytes, socket_path: str) -> None:
        self.config = config
        self.worker_id = worker_id
        self.devices = VisibleDevices()
        self.peers = Peers(Connections(Reactor(), token, config), config, worker_id, socket_path)
        self.peers.hello = lambda: m.Hello(self.peers.address, self.job)
        self.reactor = self.peers.reactor
        self.reactor.on_turn = self._turn
        self.references = References(self.peers)
        self.table = self.references.table
        self.released = self.references.released
        self.locations = Locations(self)
        self.stored = StoredValues(self)
        self.values = Values(self)
        self.counts = TaskCounts(self)
        self.results = Results(self)
        self.streams = Streams(self)
        self.crashes = Crashes(self)
        self.runtime_envs = RuntimeEnvs(self)
        self.submitter = TaskSubmitter(self)
        self.actor_calls = ActorCalls(self)
        self.actors = ActorCreations(self)
        self.lineage = Lineage(self)
        self.dependencies = Dependencies(self)
        self.groups = PlacementGroups(self)
        self.actor_group: InGroup | None = None
        self.references.on_no_handles = self.actor_calls.forget
        self.events = TaskEventLog(self)
        self.events.tellers.append(lambda: recorded.tell(self))
        self.held = HeldObjects(self)
        self.on_forked: list[Callable[[], None]] = []
        self.on_executor_turn: Callable[[], None] | None = None
        self.before_blocking: Callable[[float], Callable[[], None]] | None = None
        self.on_raylet_lost: Callable[[], None] = lambda: None
        self.given_up: Exception | None = None
        self.on_output: Callable[[wm.OutputLines | wm.OutputDisplay], None] | None = None
        # A worker's stderr reaches its driver.
        self.on_warning: Callable[[str], None] = lambda text: print(
            text, file=sys.stderr, flush=True
        )
        self.on_task_start: Callable[[], None] = lambda: None
        self.on_task_end: Callable[[], None] = lambda: None
        self.newest_task: TaskContext | None = None
        self.actor: ActorSpec | None = None
        self.actor_shown = ""
        self.on_exit_actor: Callable[[], None]
        self.cancelling = Cancelling(self)
        self.pickled_refs: set[ObjectRef] = set()
        self.find_function: Callable[[TaskContext], Callable[..., Any]]
        self.on_job: Callable[[JobConfig], None] = lambda job: None
        self.submitter_dirty = False
        self.job: JobConfig
        self.new_task_id: TaskIDFactory
        self._has_job = False
        self._taking = False
        self._new_tasks: deque[PendingTask] = deque()
        self._new_calls: deque[ActorCall] = deque()
        self.peers.handlers.update(
            {
                m.TaskDone: self._on_done,
                m.Hello: self._on_hello,
                m.DriverRegistered: self._on_registered,
                m.WorkerRegistered: self._on_registered,
                m.GcsReply: lambda _peer, reply: self.peers.answer(
                    ("gcs", reply.request_id), reply
                ),
                m.Assigned: self._on_assigned,
                wm.OutputLines: self._on_output,
                wm.OutputDisplay: self._on_output,
                wm.SchedulingWarning: self._on_warning,
            }
        )
        self.peers.on_closed.append(self._on_closed)

    # --- start and stop --------------------

    @property
    def address(self) -> Address:
        """Where this process listens."""
        return self.peers.address

    def joined(self, node_id: bytes, arena_path: str, arena_size: int) -> None:
        """The raylet took this process in."""
        self.peers.joined(node_id)
        self.stored.attach(arena_path, arena_size)
        self.lineage.value_limit = self.config.max_lineage_value_bytes or arena_size

    def set_job(self, job: JobConfig) -> None:
        """Work for this job from now on."""
        self._has_job = True
        self.job = job
        self.new_task_id = TaskIDFactory(job.job_id)

    @property
    def session(self) -> Session:
        """The folder of this node's sockets and logs."""
        return Session(Path(self.address.unix_path).parent.parent)

    def become_actor(self, spec: ActorSpec) -> None:
        """This process is that actor's from now on."""
        self.actor, self.actor_group = spec, _group_of(spec.options.strategy)
        self.actor_shown = spec.class_name

    def stop(self) -> None:
        """Leave the cluster; who still waits here, in whatever thread, gets an error.

        Arrays that the program keeps stay what they are, as long as it keeps them.
        """
        self.tell_last()
        self.reactor.inbox.append(lambda: self.table.refuse_waits(_stopped()))
        self.peers.stop()
        self.stored.detach()

    def forget_in_fork(self) -> None:
        """This process is a fork of the one that this belongs to: it must not touch its sockets.

        Locks that other threads had at that moment are never given back; those that a fork could
        meet are made anew, or not asked for.
        """
        self.reactor.abandon()
        for forget in self.on_forked:
            forget()

    def tell_last(self) -> None:
        """This process leaves: with its last turn goes what it recorded and what it does not use.

        A worker that is given back has time to tell of its last tasks, too.
        """
        self.reactor.inbox.extend([*self.events.tellers, self.submitter.return_idle])

    # --- submission (any thread) --------------------

    def submit_task(
        self,
        function: PickledFunction,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
    ) -> list[ObjectRef] | ObjectRefGenerator:
        """Submit a task; its refs, or the generator of them, come back at once."""
        task_id = self.new_task_id()
        payload, dependencies, contained = arguments.pack(self, args, kwargs)
        spec = TaskSpec(
            task_id, self.job.job_id, function.id, name, payload, dependencies, contained,
            options.num_returns, max_calls=options.max_calls, backpressure=options.backpressure,
            origin=current_origin(), group=_group_of(options.shape.strategy), parent=_parent(),
        )  # fmt: skip
        refs = self._new_refs(spec)
        self._new_tasks.append(PendingTask(spec, function, options))
        self._submitted(len(self._new_tasks))
        return refs

    def submit_call(
        self,
        actor_id: bytes,
        method: str,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
    ) -> list[ObjectRef] | ObjectRefGenerator:
        """Call a method of an actor; like `submit_task`."""
        task_id = self.new_task_id()
        payload, dependencies, contained = arguments.pack(self, args, kwargs)
        spec = TaskSpec(
            task_id, self.job.job_id, b"", name, payload, dependencies, contained,
            options.num_returns, actor_id, method, 0, 0, options.backpressure,
            options.concurrency_group, current_origin(), parent=_parent(),
        )  # fmt: skip
        # A pending call keeps the actor alive, also when its handle has gone.
        self.released.append((handle_id(actor_id), 1))
        refs = self._new_refs(spec)
        self._new_calls.append(ActorCall(spec, options))
        self._submitted(len(self._new_calls))
        return refs

    def new_calls(self, actor_id: bytes) -> int:
        """How many calls of an actor have not been taken by the holder of the baton yet."""
        return sum(call.spec.actor_id == actor_id for call in list(self._new_calls))

    def _new_refs(self, spec: TaskSpec) -> list[ObjectRef] | ObjectRefGenerator:
        refs = []
        for index in range(spec.return_count()):
            object_id = return_id(spec.task_id, index)
            self.table.add_owned(object_id)
            if self.config.record_ref_creation_sites:
                self.references.sites[object_id] = where_made()
            refs.append(ObjectRef(object_id, self.peers.address, self, spec.origin))
        if spec.num_returns < 0:
            stream = self.streams.open(spec.task_id, bool(spec.backpressure))
            if spec.num_returns == STREAMING:
                return ObjectRefGenerator(self, stream, refs[0])
        return refs

    def _submitted(self, waiting: int) -> None:
        if waiting >= 64:
            self.reactor.try_turn()
        else:
            self.reactor.notify()

    # --- actors (any thread) --------------------

    def actor_arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], captured: tuple[ObjectRef, ...]
    ) -> tuple[arguments.Packed, list[bytes]]:
        """Pickled constructor arguments.

        The refs among them and those that the class ``captured`` are referenced as long as the
        actor has handles, since it may be restarted; those of a detached actor as long as this
        process lives.

        Returns:
            The arguments, and the ids of all that is referenced for them.
        """
        payload, dependencies, contained = arguments.pack(self, args, kwargs)
        for ref in captured:
            self.released.append((ref.binary(), 1))
        held = [d.object_id for d in dependencies] + [ref.object_id for ref in contained]
        held.extend(ref.binary() for ref in captured)
        return (payload, dependencies, contained), held

    def actor_ref(self, actor_id: bytes, arguments: list[bytes]) -> ObjectRef:
        """The ref that a new actor's handles carry: when it dies, the actor ends.

        ``arguments`` are what `actor_arguments` has referenced for it.
        """
        object_id = handle_id(actor_id)
        self.references.hold_handles(object_id, arguments)
        return ObjectRef(object_id, self.peers.address, self)

    def borrowed_ref(self, object_id: bytes, owner: Address) -> ObjectRef:
        """A ref that came from elsewhere, counted here; its owner is still to be told."""
        self.references.refer(object_id, owner)
        return ObjectRef(object_id, owner, self)

    def adopted_ref(self, object_id: bytes, owner: Address) -> ObjectRef:
        """A ref that stood in no value that nbray knows: the owner is told here."""
        self.references.refer(object_id, owner)
        self.reactor.post(lambda: self.references.adopt(object_id))
        return ObjectRef(object_id, owner, self)

    # --- the task of this thread or coroutine --------------------

    def enter_task(self, spec: TaskSpec) -> Token[TaskContext | None]:
        """What this thread or coroutine does from now on belongs to the task."""
        task = TaskContext(
            spec.task_id, spec.name, spec.actor_id, spec.attempt, spec.origin,
            spec.group or self.actor_group, spec.function_id, spec.method,
        )  # fmt: skip
        self.newest_task = task
        self.events.running[spec.task_id] = (spec, time.monotonic())
        self.on_task_start()
        return running.set(task)

    def leave_task(self, token: Token[TaskContext | None]) -> None:
        """The task has ended, but for its reply."""
        self.on_task_end()
        running.reset(token)

    # --- values (any thread) --------------------

    def put(self, value: Any, packed: Serialized | None = None) -> ObjectRef:
        """Make an object of ``value``, which may be ``packed`` already; this process owns it."""
        object_id = return_id(self.new_task_id(), 0)
        entry = self.table.add_owned(object_id)
        if self.config.record_ref_creation_sites:
            self.references.sites[object_id] = where_made()
        try:
            if packed is None:
                packed = serialize(value)
            stored = self.stored.store(object_id, packed, self.peers.address)
            if packed.contained:
                contained = [ref.object_id for ref in packed.contained]
                self.references.note(contained, 1)
                entry.contained = contained
            entry.value = stored
            return ObjectRef(object_id, self.peers.address, self, current_origin())
        except BaseException:  # an interrupt, too: no ref of it leads anywhere
            self.stored.discard(object_id)
            self.released.append((object_id, -1))
            raise

    def get(self, refs: Sequence[ObjectRef], timeout: float | None = None) -> list[Any]:
        """The values of ``refs``; see `Values.get`."""
        return self.values.get(refs, timeout)

    def is_needed(self) -> bool:
        """Whether others hold what this process owns, or run what it has submitted."""
        return (
            self.references.are_held_elsewhere()
            or any(True for _ in self.submitter.unfinished())
            or self.actor_calls.any_unfinished()
        )

    def is_unfinished(self, task: PendingTask | ActorCall) -> bool:
        """Whether a task or call of this process has no reply. Under the baton."""
        task_id = task.spec.task_id
        if isinstance(task, ActorCall):
            return self.actor_calls.client(task.spec.actor_id).knows(task_id)
        return self.submitter.knows(task_id)

    def resubmit(self, task: PendingTask | ActorCall) -> None:
        """Run a finished task once more. Under the baton."""
        if isinstance(task, ActorCall):
            self._new_calls.append(task)
        else:
            self._new_tasks.append(task)
        if not self._taking:
            self.take_new()

    def unfinished_tasks(self) -> list[bytes]:
        """The ids of the tasks and calls of this process whose results are not there yet."""
        return self.table.unfinished_tasks(self.job.job_id)

    # --- under the baton --------------------

    def _turn(self) -> None:
        """Everything that other threads left for the holder of the baton."""
        if self.released:
            self.references.count_released()
        self.stored.send_unpins()
        self.take_new()
        if self.given_up is not None:
            self.give_up(self.given_up)
        if self.submitter_dirty:
            self.submitter_dirty = False
            self.submitter.dispatch()
        if self.on_executor_turn is not None:
            self.on_executor_turn()

    def give_up(self, error: Exception) -> None:
        """The cluster cannot be reached any more: all that waits fails, and all that comes."""
        self.given_up = error
        self.submitter.fail_all(error)
        self.actor_calls.fail_all(error)
        self.table.complete_all(Value(serialize(error).to_bytes(), None, True))

    def take_new(self) -> None:
        """Take over what was submitted since the last turn.

        To look for an argument may submit the task that makes it again, which is taken here too.
        """
        if not (self._new_tasks or self._new_calls):
            return
        self._taking = True
        try:
            while self._new_tasks or self._new_calls:
                if self._new_tasks:
                    self._accept_new_tasks()
                if self._new_calls:
                    self._pass_new_calls()
        finally:
            self._taking = False

    def _accept_new_tasks(self) -> None:
        new_tasks = self._new_tasks
        self.submitter_dirty = True
        now = time.monotonic()
        while new_tasks:
            task = new_tasks.popleft()
            task.submitted = now
            self.counts.submitted(task.spec)
            self.submitter.accept(task)
            try:
                if not task.spec.dependencies or self.dependencies.resolve(task):
                    self.submitter.enqueue(task)
            except Exception as error:  # it must not take those behind it along
                logger.exception("The task %s could not be queued.", task.spec.name)
                self.submitter.refuse(task, error)

    def _pass_new_calls(self) -> None:
        touched = set()
        now = time.monotonic()
        while self._new_calls:
            call = self._new_calls.popleft()
            call.submitted = now
            self.counts.submitted(call.spec)
            client = self.actor_calls.client(call.spec.actor_id)
            if call.spec.dependencies:
                self.dependencies.resolve_call(call, client)
            client.submit(call)
            touched.add(client)
        for client in touched:
            client.dispatch()

    def _on_done(self, connection: Connection, message: m.TaskDone) -> None:
        peer = connection.state
        worker_id = peer.worker_id if isinstance(peer, Address) else b""
        if not self.submitter.on_done(worker_id, message):
            self.actor_calls.on_done(connection, worker_id, message)

    def _on_hello(self, connection: Connection, message: m.Hello) -> None:
        self.peers.introduced(connection, message.address)
        if not self._has_job:
            self.set_job(message.job)
            self.on_job(message.job)

    def _on_registered(
        self, _peer: Connection, message: m.DriverRegistered | m.WorkerRegistered
    ) -> None:
        self.peers.answer("registered", message)

    def _on_assigned(self, _raylet: Connection, message: m.Assigned) -> None:
        self.peers.answer(("assigned", message.request_id), message)

    def _on_output(self, _peer: Connection, message: wm.OutputLines | wm.OutputDisplay) -> None:
        if self.on_output is not None:
            self.on_output(message)

    def _on_warning(self, _raylet: Connection, message: wm.SchedulingWarning) -> None:
        self.on_warning(f"(raylet) {message.text}")

    def _on_closed(self, connection: Connection) -> None:
        if connection is self.peers.raylet:
            self.on_raylet_lost()


def _stopped() -> Value:
    """What the waits of a process find that leaves its cluster."""
    return Value(serialize(NbraySystemError(STOPPED)).to_bytes(), None, True)


def _group_of(strategy: Strategy) -> InGroup | None:
    return strategy if isinstance(strategy, InGroup) else None


def _parent() -> bytes:
    task = running.get()
    return task.task_id if task is not None else b""
