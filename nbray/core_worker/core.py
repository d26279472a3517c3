"""CoreWorker: what a driver and a worker share.

The life of a task, told once. `submit` (any thread) makes the refs and puts the task into
the inbox. The holder of the reactor's baton takes it from there: `_resolve` waits until its
arguments are complete and puts small ones into the spec; `TaskSubmitter` leases a worker and
pushes it; the worker's `Executor` runs it and replies; `finish_task` completes the objects,
which wakes whoever waits in `get`. Refs that die are noted in `released` and counted down
here; when an entry of the ownership table ends, `_on_released` frees what it held.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from nbray.common.config import Config
from nbray.common.ids import TaskIDFactory, return_id
from nbray.core_worker.actor_calls import ActorCall, ActorClient
from nbray.core_worker.ownership import ObjectEntry, OwnershipTable
from nbray.core_worker.serialization import Serialized, deserialize, serialize
from nbray.core_worker.submitter import PendingTask, TaskSubmitter
from nbray.exceptions import (
    GetTimeoutError,
    NbrayError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from nbray.object_ref import ObjectRef
from nbray.object_store.arena import Arena
from nbray.wire import messages as m
from nbray.wire.reactor import Connection, Reactor, Waiter

logger = logging.getLogger(__name__)

ConnectionUser = Callable[[Connection, m.Message], None]


class CoreWorker:
    """The runtime of one process; see the head of this module."""

    def __init__(self, config: Config, token: bytes, worker_id: bytes, socket_path: str) -> None:
        self.config = config
        self.worker_id = worker_id
        self.reactor = Reactor(token, config)
        self.reactor.on_turn = self._turn
        self.table = OwnershipTable()
        self.submitter = TaskSubmitter(self)
        self.released: deque[tuple[bytes, int]] = deque()
        self.on_executor_message: ConnectionUser | None = None
        self.on_executor_turn: Callable[[], None] | None = None
        self.before_blocking: Callable[[], Callable[[], None]] | None = None
        self.on_raylet_lost: Callable[[], None] = lambda: None
        self.on_output: Callable[[m.OutputLines], None] | None = None
        self.on_job: Callable[[m.JobConfig], None] = lambda job: None
        self.arena: Arena | None = None
        self.submitter_dirty = False
        self._has_job = False
        self.job: m.JobConfig
        self.address: m.Address
        self.raylet: Connection
        self.new_task_id: TaskIDFactory
        self._socket_path = socket_path
        self._new_tasks: deque[PendingTask] = deque()
        self._new_calls: deque[ActorCall] = deque()
        self._actors: dict[bytes, ActorClient] = {}
        self._peers: dict[bytes, Connection] = {}
        self._raylets: dict[bytes, Connection] = {}
        self._requests = itertools.count(1)
        self._replies: dict[object, Callable[[Any], None]] = {}
        self.handovers: dict[bytes, list[bytes]] = {}
        self._pinned: dict[bytes, list[Callable[[m.ObjectPinned], None]]] = {}
        self._freed_actors: dict[bytes, bytes] = {}
        self._unpins: deque[bytes] = deque()

    # --- start and stop --------------------

    def start(self, raylet_socket: str, host: str) -> None:
        """Listen, and connect to the raylet of this node.

        Raises:
            OSError, HandshakeError: the raylet is not there, or the token is wrong.
        """
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.bind(self._socket_path)
        unix.listen(512)
        tcp = socket.create_server((host, 0), backlog=512)
        self.address = m.Address(self.worker_id, b"", self._socket_path, host, tcp.getsockname()[1])
        self.raylet = self.reactor.connect(raylet_socket, "", 0, self._on_message, self._on_closed)
        self.reactor.listen(unix, self._on_message, self._on_closed)
        self.reactor.listen(tcp, self._on_message, self._on_closed)

    def joined(self, node_id: bytes, arena_path: str, arena_size: int) -> None:
        """The raylet took this process in."""
        a = self.address
        self.address = m.Address(a.worker_id, node_id, a.unix_path, a.host, a.port)
        self._raylets[node_id] = self.raylet
        self.arena = Arena.attach(arena_path, arena_size)

    def set_job(self, job: m.JobConfig) -> None:
        """Work for this job from now on."""
        self._has_job = True
        self.job = job
        self.new_task_id = TaskIDFactory(job.job_id)

    def stop(self) -> None:
        """Close all connections."""
        self.reactor.stop()
        try:
            os.unlink(self._socket_path)
        except FileNotFoundError:
            logger.debug("The socket %s was gone already.", self._socket_path)

    # --- requests with a reply --------------------

    def request(
        self, key: object, message: m.Message, timeout: float = 30.0, conn: Connection | None = None
    ) -> Any:
        """Send ``message`` to the raylet and wait for the reply that carries ``key``.

        Raises:
            GetTimeoutError: no reply in ``timeout`` seconds.
        """
        waiter = Waiter()
        answer: list[Any] = []

        def on_reply(reply: Any) -> None:
            answer.append(reply)
            waiter.complete_one()

        def send() -> None:
            self._replies[key] = on_reply
            (conn or self.raylet).send(message)

        self.reactor.post(send)
        if not self.reactor.wait(waiter, timeout):
            raise GetTimeoutError(
                f"The raylet did not answer {type(message).__name__} within {timeout:.0f} s."
            )
        return answer[0]

    def gcs_call(self, method: str, body: bytes) -> bytes:
        """Call a method of the GCS through the raylet.

        Raises:
            NbrayError: the GCS answered with an error.
        """
        request_id = next(self._requests)
        reply: m.GcsReply = self.request(
            ("gcs", request_id), m.GcsRequest(request_id, method, body)
        )
        if reply.error:
            raise NbrayError(f"The GCS could not do {method}: {reply.error}")
        return reply.body

    # --- submission (any thread) --------------------

    def _new_refs(self, task_id: bytes, count: int) -> list[ObjectRef]:
        refs = []
        for index in range(count):
            object_id = return_id(task_id, index)
            self.table.add_owned(object_id)
            refs.append(ObjectRef(object_id, self.address, self))
        return refs

    def submit_task(
        self,
        function_id: bytes,
        function: bytes,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        num_returns: int,
        resources: tuple[tuple[str, int], ...],
        retries: int,
        retry_exceptions: bool,
    ) -> list[ObjectRef]:
        """Submit a task; its refs come back at once."""
        task_id = self.new_task_id()
        payload, dependencies, contained = self._serialize_args(args, kwargs)
        spec = m.TaskSpec(
            task_id, self.job.job_id, function_id, name, payload, dependencies, contained,
            num_returns,
        )  # fmt: skip
        refs = self._new_refs(task_id, num_returns)
        self._new_tasks.append(PendingTask(spec, function, resources, retries, retry_exceptions))
        if len(self._new_tasks) >= 64:
            self.reactor.try_turn()
        else:
            self.reactor.notify()
        return refs

    def submit_call(
        self,
        actor_id: bytes,
        method: str,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        num_returns: int,
        retries: int,
    ) -> list[ObjectRef]:
        """Call a method of an actor."""
        task_id = self.new_task_id()
        payload, dependencies, contained = self._serialize_args(args, kwargs)
        spec = m.TaskSpec(
            task_id, self.job.job_id, b"", name, payload, dependencies, contained,
            num_returns, actor_id, method,
        )  # fmt: skip
        # A pending call keeps the actor alive, also when its handle has gone.
        self.released.append((handle_id(actor_id), 1))
        refs = self._new_refs(task_id, num_returns)
        self._new_calls.append(ActorCall(spec, retries))
        if len(self._new_calls) >= 64:
            self.reactor.try_turn()
        else:
            self.reactor.notify()
        return refs

    def _serialize_args(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, list[m.Dependency], list[m.ContainedRef]]:
        if not args and not kwargs:
            return b"", [], []
        dependencies: list[m.Dependency] = []
        keep: list[ObjectRef] = []

        def slot(value: Any) -> Any:
            large = getattr(value, "nbytes", 0)
            if isinstance(value, (bytes, bytearray)):
                large = len(value)
            if isinstance(large, int) and large > self.config.max_inline_bytes:
                value = self.put(value)
                keep.append(value)
            if isinstance(value, ObjectRef):
                dependencies.append(m.Dependency(value._id, value._owner))
                return ArgumentSlot(len(dependencies) - 1)
            return value

        packed = serialize(([slot(a) for a in args], {k: slot(v) for k, v in kwargs.items()}))
        for dependency in dependencies:
            self.released.append((dependency.object_id, 1))
        for ref in packed.contained:
            self.released.append((ref.object_id, 1))
        return packed.to_bytes(), dependencies, packed.contained

    def serialize_actor_args(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, list[m.Dependency], list[m.ContainedRef]]:
        """Pickled constructor arguments; refs among them are waited for here.

        They stay referenced as long as this process lives, since the actor may be restarted.
        """
        payload, dependencies, contained = self._serialize_args(args, kwargs)
        for dependency in dependencies:
            ref = ObjectRef(dependency.object_id, dependency.owner, self)
            self.released.append((dependency.object_id, 1))
            entry = self._entry(ref)
            self._wait_for([ref], [entry], 1, None)
            dependency.value = entry.value
        return payload, dependencies, contained

    def create_actor(self, spec: m.ActorSpec, wait: bool) -> None:
        """Register an actor; with ``wait``, only return once the GCS has it.

        Raises:
            ValueError: its name is taken.
        """
        if wait:
            reply: m.ActorRegistered = self.request(
                ("actor", spec.actor_id), m.CreateActor(spec, self.job)
            )
            if reply.error:
                raise ValueError(reply.error)
        else:
            self.reactor.post(lambda: self.raylet.send(m.CreateActor(spec, self.job)))

    def kill_actor(self, actor_id: bytes, no_restart: bool) -> None:
        """End an actor; for this process it is dead at once when it does not restart."""

        def act() -> None:
            self.raylet.send(m.KillActor(actor_id, no_restart))
            if no_restart:
                dead = m.ActorState(actor_id, 1 << 29, "DEAD", None, "nbray.kill ended it")
                self._actor(actor_id).on_state(dead)

        self.reactor.post(act)

    def actor_ref(self, actor_id: bytes) -> ObjectRef:
        """The ref that a new actor's handles carry: when it dies, the actor ends."""
        object_id = handle_id(actor_id)
        self.table.add_owned(object_id)
        self._freed_actors[object_id] = actor_id
        return ObjectRef(object_id, self.address, self)

    # --- values --------------------

    def put(self, value: Any) -> ObjectRef:
        """Make an object of ``value``; this process owns it."""
        object_id = return_id(self.new_task_id(), 0)
        entry = self.table.add_owned(object_id)
        packed = serialize(value)
        entry.value = self.store(object_id, packed, self.worker_id)
        if packed.contained:
            entry.contained = [ref.object_id for ref in packed.contained]
            for ref in packed.contained:
                self.released.append((ref.object_id, 1))
        return ObjectRef(object_id, self.address, self)

    def store(self, object_id: bytes, packed: Serialized, owner_id: bytes) -> m.Value:
        """The value inline when it is small, else written into the arena.

        Raises:
            ObjectStoreFullError: there was no room in time.
        """
        if packed.size <= self.config.max_inline_bytes:
            return m.Value(packed.to_bytes(), None, False, packed.contained)
        assert self.arena is not None
        created: m.ObjectCreated = self.request(
            ("create", object_id), m.CreateObject(object_id, packed.size, owner_id), 60.0
        )
        if created.error:
            raise ObjectStoreFullError(created.error)
        packed.write_into(self.arena.view(created.offset, packed.size))
        self.reactor.post(lambda: self.raylet.send(m.SealObject(object_id)))
        stored = m.Stored(packed.size, [self.address.node_id])
        return m.Value(None, stored, False, packed.contained)

    def get(self, refs: Sequence[ObjectRef], timeout: float | None = None) -> list[Any]:
        """The values of ``refs``; waits at most ``timeout`` seconds in all.

        Raises:
            GetTimeoutError: not all were there in time.
            TaskError: a task failed; also an instance of the user's exception class.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        entries = [self._entry(ref) for ref in refs]
        if not self._wait_for(refs, entries, len(entries), timeout):
            raise GetTimeoutError(
                f"Get timed out: {sum(e.value is None for e in entries)} of {len(refs)} objects "
                f"were not ready within {timeout} s."
            )
        return [self._open(ref, entry, deadline) for ref, entry in zip(refs, entries, strict=True)]

    def wait(
        self, refs: Sequence[ObjectRef], num_returns: int, timeout: float | None
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """Split ``refs`` into at most ``num_returns`` that are ready and the rest."""
        entries = [self._entry(ref) for ref in refs]
        self._wait_for(refs, entries, num_returns, timeout)
        ready: list[ObjectRef] = []
        rest: list[ObjectRef] = []
        for ref, entry in zip(refs, entries, strict=True):
            done = entry.value is not None and len(ready) < num_returns
            (ready if done else rest).append(ref)
        return ready, rest

    def _entry(self, ref: ObjectRef) -> ObjectEntry:
        entry = self.table.get(ref._id)
        if entry is None:
            raise ObjectLostError(f"{ref!r} is not known in this process any more.")
        return entry

    def _wait_for(
        self,
        refs: Sequence[ObjectRef],
        entries: list[ObjectEntry],
        count: int,
        timeout: float | None,
    ) -> bool:
        missing = [
            (ref._id, entry)
            for ref, entry in zip(refs, entries, strict=True)
            if entry.value is None
        ]
        needed = count - (len(entries) - len(missing))
        if needed <= 0:
            return True
        waiter = Waiter(needed)

        def enlist() -> None:
            for object_id, entry in missing:
                if entry.value is not None:
                    waiter.complete_one()
                    continue
                self._fetch(object_id, entry)
                if entry.value is not None:
                    waiter.complete_one()
                elif entry.waiters is None:
                    entry.waiters = [waiter]
                else:
                    entry.waiters.append(waiter)

        self.reactor.inbox.append(enlist)
        if timeout is not None and timeout <= 0:
            self.reactor.try_turn()
            return waiter.remaining <= 0
        resume = self.before_blocking() if self.before_blocking is not None else None
        try:
            return self.reactor.wait(waiter, timeout)
        finally:
            if resume is not None:
                resume()

    def _open(self, ref: ObjectRef, entry: ObjectEntry, deadline: float | None) -> Any:
        value = entry.value
        assert value is not None
        return self.open_value(ref._id, ref._owner, value, deadline)

    def open_value(
        self, object_id: bytes, owner: m.Address, value: m.Value, deadline: float | None = None
    ) -> Any:
        """Unpickle a complete value, or raise what it says."""
        data: bytes | memoryview
        if value.stored is not None:
            data = self._map(object_id, owner, value.stored, deadline)
        else:
            assert value.inline is not None
            data = value.inline
        result = deserialize(data, self._rebuild_from(object_id))
        if value.is_error:
            raise result.as_instanceof_cause() if isinstance(result, TaskError) else result
        return result

    def _rebuild_from(self, outer: bytes) -> Callable[[bytes, m.Address], ObjectRef]:
        """Makes refs found in ``outer``, which is held until their owners know us."""

        def rebuild(object_id: bytes, owner: m.Address) -> ObjectRef:
            entry = self.table.borrow(object_id, owner)
            self.released.append((object_id, 1))
            if entry.owner is not None and not entry.registered:
                self.reactor.post(lambda: self._register_borrow(object_id, outer))
            return ObjectRef(object_id, owner, self)

        return rebuild

    def _register_borrow(self, object_id: bytes, outer: bytes) -> None:
        entry = self.table.get(object_id)
        if entry is None or entry.owner is None or entry.registered:
            return
        entry.registered = 1
        self._hold(outer, 1)
        self._tell_owner(object_id, entry.owner, self.address, lambda: self._hold(outer, -1))

    def _tell_owner(
        self, object_id: bytes, owner: m.Address, borrower: m.Address, then: Callable[[], None]
    ) -> None:
        """AddBorrower at the owner; ``then`` when it has answered or is gone."""
        request_id = next(self._requests)
        try:
            connection = self.connect(owner)
        except OSError:
            then()
            return
        self._replies[("borrow", request_id)] = lambda _reply: then()
        connection.send(m.AddBorrower(object_id, borrower, request_id))

    def _map(
        self, object_id: bytes, owner: m.Address, stored: m.Stored, deadline: float | None
    ) -> memoryview:
        waiter = Waiter()
        answers: list[m.ObjectPinned] = []

        def on_pinned(reply: m.ObjectPinned) -> None:
            answers.append(reply)
            waiter.complete_one()

        def ask() -> None:
            self._pinned.setdefault(object_id, []).append(on_pinned)
            self.raylet.send(m.GetObject(object_id, stored, owner))

        self.reactor.post(ask)
        left = None if deadline is None else max(0.001, deadline - time.monotonic())
        if not self.reactor.wait(waiter, left):
            raise GetTimeoutError(f"Get timed out while object {object_id.hex()} was fetched.")
        reply = answers[0]
        if reply.error:
            raise ObjectLostError(reply.error)
        assert self.arena is not None
        return self.arena.pinned_view(
            reply.offset, reply.size, lambda: self._unpins.append(object_id)
        )

    def future(self, ref: ObjectRef) -> concurrent.futures.Future[Any]:
        """A future that is set by whoever drives the sockets."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        entry = self._entry(ref)

        def settle() -> None:
            value = entry.value
            if value is not None and value.stored is not None:
                # Mapping may wait for a transfer, which this thread itself would have to drive.
                threading.Thread(target=open_it, daemon=True).start()
            else:
                open_it()

        def open_it() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(self._open(ref, entry, None))
            except BaseException as error:
                future.set_exception(error)

        def enlist() -> None:
            self._fetch(ref._id, entry)
            if entry.value is not None:
                settle()
            elif entry.callbacks is None:
                entry.callbacks = [settle]
            else:
                entry.callbacks.append(settle)

        self.reactor.post(enlist)
        return future

    def cancel(self, ref: ObjectRef, force: bool) -> None:
        """Stop the task that makes ``ref``, if it is one of this process's."""
        task_id = ref._id[:24]

        def act() -> None:
            connection = self.submitter.cancel(task_id)
            if connection is not None:
                connection.send(m.CancelTask(task_id, force))

        self.reactor.post(act)

    # --- under the baton --------------------

    def _turn(self) -> None:
        """Everything that other threads left for the holder of the baton."""
        released, table = self.released, self.table
        while released:
            object_id, change = released.popleft()
            entry = table.get(object_id)
            if entry is not None:
                entry.local += change
                if entry.local <= 0:
                    self._release(object_id)
        if self._unpins:
            unpins = [self._unpins.popleft() for _ in range(len(self._unpins))]
            self.raylet.send(m.UnpinObjects(unpins))
        new_tasks = self._new_tasks
        dirty = bool(new_tasks)
        while new_tasks:
            task = new_tasks.popleft()
            if not task.spec.dependencies or self._resolve(task, self._enqueue_resolved):
                self.submitter.enqueue(task)
        if dirty or self.submitter_dirty:
            self.submitter_dirty = False
            self.submitter.dispatch()
        touched = set()
        while self._new_calls:
            call = self._new_calls.popleft()
            client = self._actor(call.spec.actor_id)
            if call.spec.dependencies:
                self._resolve(call, lambda _call, client=client: client.dispatch())  # type: ignore[misc]
            client.submit(call)
            touched.add(client)
        for client in touched:
            client.dispatch()
        if self.on_executor_turn is not None:
            self.on_executor_turn()

    def _actor(self, actor_id: bytes) -> ActorClient:
        client = self._actors.get(actor_id)
        if client is None:
            client = self._actors[actor_id] = ActorClient(self, actor_id)
        return client

    def _enqueue_resolved(self, task: Any) -> None:
        self.submitter.enqueue(task)
        self.submitter_dirty = True

    def _resolve(self, task: Any, when_resolved: Callable[[Any], None]) -> bool:
        """Fill in the values of complete dependencies; True when none is missing."""
        for dependency in task.spec.dependencies:
            entry = self.table.borrow(dependency.object_id, dependency.owner)
            if entry.value is not None:
                dependency.value = entry.value
                continue
            task.unresolved += 1

            def fill(entry: ObjectEntry = entry, dependency: m.Dependency = dependency) -> None:
                dependency.value = entry.value
                task.unresolved -= 1
                if not task.unresolved:
                    when_resolved(task)

            if entry.callbacks is None:
                entry.callbacks = [fill]
            else:
                entry.callbacks.append(fill)
            self._fetch(dependency.object_id, entry)
        return not task.unresolved

    def _fetch(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Ask the owner of a borrowed object for its value, once."""
        if entry.owner is None or entry.owner.worker_id == self.worker_id or entry.requested:
            return
        entry.requested = True
        try:
            self.connect(entry.owner).send(m.RequestValue(object_id))
        except OSError:
            self._owner_died(object_id)

    def _owner_died(self, object_id: bytes) -> None:
        error = OwnerDiedError(
            f"The owner of object {object_id.hex()} died, and the object with it."
        )
        self.table.complete(object_id, m.Value(serialize(error).to_bytes(), None, True))

    def _hold(self, object_id: bytes, change: int) -> None:
        entry = self.table.get(object_id)
        if entry is not None:
            entry.pins += change
            if change < 0:
                self._release(object_id)

    def _release(self, object_id: bytes) -> None:
        entry = self.table.release(object_id)
        if entry is None:
            return
        for inner in entry.contained or ():
            self.released.append((inner, -1))
        if entry.owner is not None and entry.owner.worker_id != self.worker_id:
            if entry.registered:
                connection = self._peers.get(entry.owner.worker_id)
                if connection is not None:
                    connection.send(m.RemoveBorrower(object_id, self.worker_id, entry.registered))
            return
        actor_id = self._freed_actors.pop(object_id, None)
        if actor_id is not None:
            self.raylet.send(m.KillActor(actor_id, no_restart=True, out_of_scope=True))
        elif entry.value is not None and entry.value.stored is not None:
            self.raylet.send(m.FreeObjects([object_id], entry.value.stored.node_ids))

    # --- the ends of tasks --------------------

    def finish_task(self, spec: m.TaskSpec, worker_id: bytes, done: m.TaskDone) -> None:
        """Complete a task's objects and let go of its arguments."""
        for object_id in done.borrowed:
            self._on_borrowed(object_id, worker_id)
        pending = 1

        def acknowledged() -> None:
            nonlocal pending
            pending -= 1
            if not pending:
                connection = self._peers.get(worker_id)
                if connection is not None:
                    connection.send(m.HandoverDone(spec.task_id))

        handed_over = False
        for index, value in enumerate(done.values):
            object_id = return_id(spec.task_id, index)
            entry = self.table.get(object_id)
            if entry is None:
                if value.stored is not None:
                    self.raylet.send(m.FreeObjects([object_id], value.stored.node_ids))
                handed_over = handed_over or bool(value.contained)
                continue
            if value.contained:
                handed_over = True
                entry.contained = [ref.object_id for ref in value.contained]
                for ref in value.contained:
                    inner = self.table.borrow(ref.object_id, ref.owner)
                    inner.local += 1
                    if inner.owner is not None and not inner.registered:
                        inner.registered = 1
                        pending += 1
                        self._tell_owner(ref.object_id, ref.owner, self.address, acknowledged)
            self.table.complete(object_id, value)
            if entry.local <= 0:
                self._release(object_id)
        if handed_over:
            acknowledged()
        self._let_go_of_arguments(spec)
        self.submitter_dirty = True

    def _on_borrowed(self, object_id: bytes, worker_id: bytes) -> None:
        entry = self.table.get(object_id)
        if entry is None:
            return
        if entry.owner is None or entry.owner.worker_id == self.worker_id:
            self.table.add_borrower(object_id, worker_id, 1)
            return
        connection = self._peers.get(worker_id)
        if connection is not None and connection.state is not None:
            self._hold(object_id, 1)
            self._tell_owner(
                object_id, entry.owner, connection.state, lambda: self._hold(object_id, -1)
            )

    def _let_go_of_arguments(self, spec: m.TaskSpec) -> None:
        for dependency in spec.dependencies:
            self.released.append((dependency.object_id, -1))
        for ref in spec.contained:
            self.released.append((ref.object_id, -1))
        if spec.actor_id:
            self.released.append((handle_id(spec.actor_id), -1))

    def fail_task(self, spec: m.TaskSpec, error: Exception) -> None:
        """Complete a task's objects with ``error``."""
        value = m.Value(serialize(error).to_bytes(), None, True)
        for index in range(spec.num_returns):
            self.table.complete(return_id(spec.task_id, index), value)
        self._let_go_of_arguments(spec)

    def fail_cancelled(self, spec: m.TaskSpec) -> None:
        """The task was cancelled before it started."""
        self.fail_task(spec, TaskCancelledError(f"Task {spec.name} was cancelled."))

    def fail_crashed(self, spec: m.TaskSpec, worker: m.Address) -> None:
        """The task's worker died and no retry is left."""
        self.fail_task(
            spec,
            WorkerCrashedError(
                f"The worker that ran {spec.name}() died on node {worker.node_id.hex()[:8]} and "
                "no retry is left. The raylet's log has its exit status and last lines."
            ),
        )

    # --- connections --------------------

    def connect(self, address: m.Address) -> Connection:
        """The connection to a driver or worker, made when there is none.

        Raises:
            OSError: it is not there any more.
        """
        connection = self._peers.get(address.worker_id)
        if connection is None or connection.closed:
            local = address.node_id == self.address.node_id
            connection = self.reactor.connect(
                address.unix_path if local else "", address.host, address.port,
                self._on_message, self._on_closed,
            )  # fmt: skip
            connection.state = address
            connection.send(m.Hello(self.address, self.job))
            self._peers[address.worker_id] = connection
        return connection

    def raylet_at(self, node_id: bytes, host: str, port: int) -> Connection:
        """The connection to another node's raylet."""
        connection = self._raylets.get(node_id)
        if connection is None or connection.closed:
            connection = self.reactor.connect("", host, port, self._on_message, self._on_closed)
            self._raylets[node_id] = connection
        return connection

    def _on_closed(self, connection: Connection) -> None:
        if connection is self.raylet:
            self.on_raylet_lost()
            return
        self.submitter.on_connection_closed(connection)
        for client in self._actors.values():
            client.on_connection_closed(connection)
        peer = connection.state
        if isinstance(peer, m.Address) and self._peers.get(peer.worker_id) is connection:
            del self._peers[peer.worker_id]
            for object_id in self.table.drop_borrower(peer.worker_id):
                self._release(object_id)
            self._fail_values_of(peer.worker_id)
        self.submitter_dirty = True

    def _fail_values_of(self, worker_id: bytes) -> None:
        for object_id in self.table.requested_from(worker_id):
            self._owner_died(object_id)

    def _on_message(self, connection: Connection, message: m.Message) -> None:
        match message:
            case m.TaskDone():
                peer = connection.state
                worker_id = peer.worker_id if isinstance(peer, m.Address) else b""
                if not self.submitter.on_done(worker_id, message):
                    for client in self._actors.values():
                        if client.on_done(worker_id, message):
                            break
            case m.Hello():
                connection.state = message.address
                if not self._has_job:
                    self.set_job(message.job)
                    self.on_job(message.job)
                self._peers.setdefault(message.address.worker_id, connection)
            case m.PushTask() | m.CancelTask() | m.BecomeActor() | m.ExitWorker():
                if self.on_executor_message is not None:
                    self.on_executor_message(connection, message)
            case m.LeaseGranted():
                self.submitter.on_granted(connection, message)
                self.submitter_dirty = True
            case m.LeaseSpilled():
                self.submitter.on_spilled(message)
            case m.LeaseRefused():
                self.submitter.on_refused(message)
            case m.ReclaimLeases():
                self.submitter.reclaim()
            case m.TasksReturned():
                self.submitter.on_returned(message.task_ids)
                self.submitter_dirty = True
            case m.HandoverDone():
                for object_id in self.handovers.pop(message.task_id, ()):
                    self.released.append((object_id, -1))
            case m.RequestValue():
                self._serve_value(connection, message.object_id)
            case m.ValueReady():
                if message.value is None:
                    self._owner_died(message.object_id)
                else:
                    self.table.complete(message.object_id, message.value)
            case m.AddBorrower():
                self.table.add_borrower(message.object_id, message.borrower.worker_id, 1)
                connection.send(m.BorrowerAdded(message.request_id))
            case m.BorrowerAdded():
                self._replies.pop(("borrow", message.request_id), lambda _reply: None)(message)
            case m.RemoveBorrower():
                self.table.add_borrower(message.object_id, message.borrower_id, -message.count)
                self._release(message.object_id)
            case m.ObjectCreated():
                self._reply(("create", message.object_id), message)
            case m.ObjectPinned():
                waiting = self._pinned.get(message.object_id)
                if waiting:
                    waiting.pop(0)(message)
                    if not waiting:
                        del self._pinned[message.object_id]
            case m.ActorState():
                client = self._actor(message.actor_id)
                client.on_state(message)
                client.dispatch()
            case m.ActorRegistered():
                self._reply(("actor", message.actor_id), message)
            case m.GcsReply():
                self._reply(("gcs", message.request_id), message)
            case m.DriverRegistered() | m.WorkerRegistered():
                self._reply("registered", message)
            case m.OutputLines():
                if self.on_output is not None:
                    self.on_output(message)
            case _:
                logger.warning("An unexpected %s arrived.", type(message).__name__)

    def _reply(self, key: object, message: m.Message) -> None:
        waiting = self._replies.pop(key, None)
        if waiting is not None:
            waiting(message)

    def _serve_value(self, connection: Connection, object_id: bytes) -> None:
        entry = self.table.get(object_id)
        if entry is None:
            connection.send(m.ValueReady(object_id, None))
            return

        def answer() -> None:
            connection.send(m.ValueReady(object_id, entry.value))

        if entry.value is not None:
            answer()
        elif entry.callbacks is None:
            entry.callbacks = [answer]
        else:
            entry.callbacks.append(answer)


def handle_id(actor_id: bytes) -> bytes:
    """The object id by which the handles of an actor are counted."""
    return actor_id + bytes(12)


class ArgumentSlot:
    """Stands in a pickled argument list for the ref argument of that number."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return ArgumentSlot, (self.index,)
