"""A cluster's processes without processes: the real machines over simulated connections.

Each `SimProcess` has the product's own owning side, `Leasing`, `Dependencies`, `Peers` and `Edge`.
Their sockets are queues here, so that a test decides which message arrives when, and who dies in
between. The raylet grants each request the worker that its shape names. What stands around them in
a worker (unpack, run, reply) is a few lines each, in the order of `run.executor`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from types import SimpleNamespace
from typing import Any, cast

from nbray.common.config import Config
from nbray.common.ids import return_id
from nbray.core_worker.dependencies import Dependencies
from nbray.core_worker.edge import Edge
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.batch import Batch
from nbray.core_worker.own.owning import Owning
from nbray.core_worker.peers import Peers
from nbray.core_worker.ports import PendingWork
from nbray.core_worker.submit.calls import ActorCalls
from nbray.core_worker.submit.leasing import Leasing
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import PendingTask
from nbray.core_worker.tell.task_counts import TaskCounts
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.connections import Connections, Direct
from nbray.wire.records import (
    Address,
    ContainedRefs,
    Dependency,
    JobConfig,
    Stored,
    TaskSpec,
    Value,
    ids_in,
)
from nbray.wire.strategies import Shape
from support.pending import pending_task

NODE = b"node"
JOB = b"job0"
ERROR = Value(b"error", None, True)


class End:
    """One end of a connection: what `nbray.wire.connection.Connection` is to those who use it."""

    peer_ended = True

    def __init__(
        self, network: Network, on_message: Callable[..., None], on_closed: Callable[..., None]
    ) -> None:
        self.network = network
        self.on_message = on_message
        self.on_closed = on_closed
        self.closed = False
        self.established = False
        self.state: Any = None
        self.other: End | None = None
        self.incoming: deque[m.Message] = deque()
        self.ended = False
        self.known_functions: set[bytes] = set()

    def send(self, message: m.Message) -> None:
        if not self.closed and self.other is not None and not self.other.closed:
            self.other.incoming.append(message)

    def close(self, reason: str) -> None:
        if not self.closed:
            self.closed = True
            self.network.ends.remove(self)
            if self.other is not None:
                self.other.ended = True
            self.on_closed(self)

    def deliver(self) -> None:
        """The next message arrives, or the end of the connection."""
        if self.incoming:
            self.on_message(self, self.incoming.popleft())
        elif self.ended:
            self.close("the peer closed the connection")

    @property
    def has_news(self) -> bool:
        return bool(self.incoming) or self.ended


class Network:
    """All processes, and the connections between them."""

    def __init__(self, count: int) -> None:
        self.ends: list[End] = []
        self.processes = [SimProcess(self, index) for index in range(count)]

    def connect(self, path: str, near: End) -> bool:
        target = self.processes[int(path)]
        if not target.alive:
            return False
        far = End(self, target.peers._on_message, target.peers._closed)
        near.other, far.other = far, near
        near.established = far.established = True
        self.ends += [near, far]
        return True

    def news(self) -> list[End]:
        """The ends at which something is about to arrive."""
        return [end for end in self.ends if end.has_news]

    def settle(self) -> None:
        """Until nothing is under way."""
        for _ in range(10_000):
            news = self.news()
            for end in news:
                end.deliver()
            busy = [p for p in self.processes if p.alive and p.turn()]
            if not news and not busy:
                return
        raise AssertionError("the messages do not come to an end")


class SimReactor:
    """Connections and posted work of one process."""

    ways = Direct()
    nudged = False

    def __init__(self, network: Network) -> None:
        self.network = network
        self.inbox: deque[Callable[[], None]] = deque()
        self.reactor = self

    def connect(
        self, unix_path: str, _host: str, _port: int, on_message: Callable[..., None],
        on_closed: Callable[..., None], _on_broken: Callable[..., None],
    ) -> End:  # fmt: skip
        end = End(self.network, on_message, on_closed)
        if not self.network.connect(unix_path, end):
            self.network.ends.append(end)
            self.inbox.append(lambda: end.close("nobody listens"))
        return end

    def post(self, action: Callable[[], None]) -> None:
        self.inbox.append(action)

    def nudge(self) -> None:
        """A turn comes anyway."""

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        """What is to be done at once is; a simulated process does not live for longer."""
        if not seconds:
            self.inbox.append(action)


class SimRaylet:
    """Takes the messages to the raylet: grants leases, and the test looks at what was freed."""

    def __init__(self, process: SimProcess) -> None:
        self.process = process
        self.state = Address(b"", NODE, "", "", 0)
        self.closed = False
        self.freed: list[bytes] = []

    def send(self, message: m.Message) -> None:
        if isinstance(message, om.FreeObjects):
            self.freed += message.object_ids
        elif isinstance(message, m.RequestLease):
            self.process.reactor.post(partial(self.answer, message))

    def answer(self, request: m.RequestLease) -> None:
        (name,) = request.resources
        worker = self.process.network.processes[int(name)]
        reply: m.Message
        if worker.alive:
            reply = m.LeaseGranted(request.request_id, request.request_id, worker.me.address)
        else:
            cause = Cause(CauseKind.UNSCHEDULABLE, "it is dead")
            reply = m.LeaseRefused(request.request_id, cause)
        self.process.peers.handlers[type(reply)](cast(Any, self), reply)


@dataclass(eq=False)
class Running:
    """A task at its worker, with the refs that its arguments have turned into."""

    spec: TaskSpec
    connection: End
    refs: list[bytes] = field(default_factory=list)
    failed: bool = False


class SimProcess:
    """One driver or worker."""

    def __init__(self, network: Network, index: int) -> None:
        self.network = network
        self.index = index
        self.alive = True
        self.name = bytes([index]) * 28
        self.reactor = SimReactor(network)
        config = Config(worker_death_wait_s=0.0)
        me = self.me = Identity(self.name)
        self.peers = Peers(cast(Connections, self.reactor), config, me, str(index))
        me.address = Address(self.name, NODE, str(index), "", index)
        me.set_job(JobConfig(JOB, "", me.address, [], ""))
        self.raylet = SimRaylet(self)
        self.peers.raylet = cast(Any, self.raylet)
        own = Owning(
            me, self.peers, self._free, self, self, lambda _table: lambda _s, _i, error: error,
            contextlib.nullcontext(), 0,
        )  # fmt: skip
        self.table, self.counting, self.borrowing = own.table, own.counting, own.borrowing
        self.locations, self.streams, self.endings = own.locations, own.streams, own.endings
        self.decisions: deque[Any] = deque()
        self.leasing = Leasing(me, config, self.decisions, lambda _done, _options: False)
        self.calls = ActorCalls(me, self.decisions, lambda _done, _options: False, 0.0)
        self.dependencies = Dependencies(
            self.table, self.borrowing, self.locations, 1 << 20, self.leasing.enqueue
        )
        self.counts = TaskCounts()
        self.events = SimpleNamespace(failed=lambda *_: None, finished=lambda *_: None)
        self.group_states = self.cancelling = self.stored = self.held = cast(Any, None)
        self.edge = Edge(cast(Any, self))
        self.peers.handlers[m.Hello] = lambda c, hello: self.peers.introduced(c, hello.address)
        self.peers.handlers[m.PushTask] = self._on_push
        self.tasks = self.leasing.tasks
        self.refs: list[bytes] = []
        self.batches: dict[bytes, list[Batch]] = {}
        self.made = 0
        self.owners: dict[bytes, Address] = {}
        self.queue: deque[Running] = deque()
        self.running: list[Running] = []
        self.replies: deque[tuple[Running, m.TaskDone]] = deque()

    # --- what the machines ask of a process --------------------

    def _free(self, object_ids: list[bytes], node_ids: list[bytes], maker: bytes) -> None:
        self.raylet.send(om.FreeObjects(object_ids, node_ids, maker))

    def no_handles(self, actor_id: bytes, is_creator: bool) -> None:
        raise AssertionError("there are no actors")

    def streams_still(self, task_id: bytes) -> bool:
        return False

    def is_unfinished(self, task: PendingWork) -> bool:
        return False

    def run_again(self, task: PendingWork) -> None:
        raise AssertionError("a value was given back that somebody still needs")

    def unfinished_work(self) -> Iterator[PendingWork]:
        return self.leasing.unfinished()

    # --- what a program does --------------------

    def put(self, contained: list[bytes], stored: bool) -> bytes:
        object_id = return_id(self.me.new_task_id(), 0)
        entry = self.table.add_owned(object_id)
        entry.value = self._value(contained, stored)
        if contained:
            entry.tied().contained = tuple(contained)
            self.table.note(contained, 1)
        return self._own(object_id)

    def _value(self, contained: list[bytes], stored: bool) -> Value:
        inner = self._inside(contained)
        return Value(None if stored else b"", Stored(1, (NODE,)) if stored else None, False, inner)

    def _inside(self, object_ids: list[bytes]) -> tuple[ContainedRefs, ...]:
        return tuple(
            ContainedRefs(owner, tuple(some))
            for owner, some in groupby(object_ids, self.owners.__getitem__)
        )

    def _own(self, object_id: bytes) -> bytes:
        self.owners[object_id] = self.me.address
        self.refs.append(object_id)
        return object_id

    def drop(self, object_id: bytes) -> None:
        self.refs.remove(object_id)
        batches = self.batches.get(object_id)
        if not batches:
            self.table.died.append(object_id)
            return
        batch = batches.pop()
        batch.died.append(object_id)
        if not batch.nudged:
            batch.nudge()

    def submit(self, worker: SimProcess, plain: list[bytes], inside: list[bytes]) -> bytes:
        """A task with ref arguments, and with refs inside of arguments."""
        spec = TaskSpec(
            self.me.new_task_id(), JOB, b"", "", b"x",
            tuple(Dependency(object_id, self.owners[object_id]) for object_id in plain),
            self._inside(inside),
        )  # fmt: skip
        self.table.note(plain, 1)
        self.table.note(inside, 1)
        object_id = return_id(spec.task_id, 0)
        self.table.add_owned(object_id)
        options = TaskOptions(Shape(((str(worker.index), 1),)))
        task = pending_task(spec, options)
        self.tasks[task.first] = task
        self.reactor.post(lambda: self._resolve(task))
        return self._own(object_id)

    def _resolve(self, task: PendingTask) -> None:
        if self.dependencies.resolve_task(task):
            self.leasing.enqueue(task)

    def fetch(self, object_id: bytes) -> None:
        """Have a value brought."""
        entry = self.table.get(object_id)
        if entry is not None and entry.value is None:
            self.reactor.post(lambda: self.borrowing.fetch(object_id, entry))

    def open(self, object_id: bytes, value: Value) -> list[bytes]:
        """Unpickle a value: the refs in it, as `Values._refs` makes them."""
        unknown = self._made(object_id, value.contained)
        if unknown:
            self.reactor.post(lambda: self.borrowing.found_in(object_id, unknown))
        return list(ids_in(value.contained))

    def _made(self, outer: bytes, contained: tuple[ContainedRefs, ...]) -> list[bytes]:
        """Refs that stand somewhere, alternately by themselves and as a batch."""
        self.made += 1
        for refs in contained:
            self.owners.update(dict.fromkeys(refs.object_ids, refs.owner))
        object_ids = ids_in(contained)
        if not object_ids or self.made % 2:
            return self.counting.refer_all(outer, contained)
        batch = Batch(object_ids, self.table.batches, self.reactor)
        for object_id in object_ids:
            self.batches.setdefault(object_id, []).append(batch)
        return self.counting.refer_all(outer, contained, batch)

    # --- a worker --------------------

    def _on_push(self, connection: Any, message: m.PushTask) -> None:
        self.queue.append(Running(message.spec, connection))

    def start(self) -> Running:
        """Unpack the arguments of the next task."""
        task = self.queue.popleft()
        self._made(b"", task.spec.contained)
        task.refs += ids_in(task.spec.contained)
        for dependency in task.spec.dependencies:
            self.table.borrow(dependency.object_id, dependency.owner)
            assert dependency.value is not None
            task.failed = task.failed or dependency.value.is_error
            task.refs += self.open(dependency.object_id, dependency.value)
        self.running.append(task)
        return task

    def finish(self, task: Running, keep: list[bytes], give: list[bytes], stored: bool) -> None:
        """The function returns refs ``give`` in its value, and has put ``keep`` somewhere."""
        self.running.remove(task)
        if task.failed:
            value = ERROR
        else:
            value = self._value(give, stored)
            self.table.note(give, 1)
        self.refs += task.refs
        for object_id in task.refs:
            self.drop(object_id)
        for object_id in keep:
            self.table.released.append((object_id, 1))
            self.refs.append(object_id)
        self.replies.append((task, m.TaskDone(task.spec.task_id, [value], 0.0)))

    def _reply(self, task: Running, done: m.TaskDone) -> None:
        submitter = task.connection.state.worker_id

        def send(kept: list[bytes]) -> None:
            done.borrowed = kept
            held = [one for value in done.values for one in ids_in(value.contained)]
            if held and task.connection.closed:
                self.table.note(held, -1)
            elif held:
                self.borrowing.hand_over(submitter, done.task_id, held)
            task.connection.send(done)

        self.borrowing.keep_arguments(task.spec, submitter, send)

    # --- time --------------------

    def turn(self) -> bool:
        """What a turn of the reactor does before it reads; whether there was anything."""
        busy = bool(self.reactor.inbox or self.replies or self.decisions)
        busy = busy or bool(self.table.released or self.table.died or self.table.batches)
        busy = busy or self.leasing.dirty
        while self.reactor.inbox:
            self.reactor.inbox.popleft()()
        self.counting.count_released()
        self.edge.carry_out()
        while self.replies:
            self._reply(*self.replies.popleft())
        return busy

    def kill(self) -> None:
        """The process ends at once; what it has sent still arrives, and then its end."""
        self.alive = False
        mine = [end for end in self.network.ends if end.on_closed == self.peers._closed]
        for end in mine:
            end.closed = True
            self.network.ends.remove(end)
            if end.other is not None:
                end.other.ended = True
