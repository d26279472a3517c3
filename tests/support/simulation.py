"""A cluster's processes without processes: the real reference counting over simulated connections.

Each `SimProcess` has the product's own `Peers`, `References` and `OwnershipTable`. Their sockets
are queues here, so that a test decides which message arrives when, and who dies in between. What
stands around them in a process (submit, run, reply) is a few lines each, in the order of
`core_worker.core`, `executor` and `results`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from nbray.common.config import Config
from nbray.common.ids import TaskIDFactory, return_id
from nbray.core_worker.own.counting import References
from nbray.core_worker.own.table import ObjectEntry
from nbray.core_worker.peers import Peers
from nbray.core_worker.values.arguments import counted
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire.connections import Connections
from nbray.wire.records import Address, ContainedRef, Dependency, JobConfig, Stored, TaskSpec, Value

NODE = b"node"
JOB = b"job0"
ERROR = Value(b"error", None, True)


class End:
    """One end of a connection: what `nbray.wire.connection.Connection` is to those who use it."""

    established = True

    def __init__(
        self, network: Network, on_message: Callable[..., None], on_closed: Callable[..., None]
    ) -> None:
        self.network = network
        self.on_message = on_message
        self.on_closed = on_closed
        self.closed = False
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


class SimRaylet:
    """Takes the messages to the raylet: the test looks at what was freed."""

    closed = False

    def __init__(self) -> None:
        self.freed: list[bytes] = []

    def send(self, message: m.Message) -> None:
        if isinstance(message, om.FreeObjects):
            self.freed += message.object_ids


@dataclass(eq=False)
class Task:
    """A submitted task whose reply has not come."""

    spec: TaskSpec
    worker: SimProcess
    unresolved: int = 0
    connection: End | None = None


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
        self.peers = Peers(cast(Connections, self.reactor), Config(), self.name, str(index))
        self.peers.address = Address(self.name, NODE, str(index), "", index)
        job = JobConfig(JOB, "", self.peers.address, [], "")
        self.peers.hello = lambda: m.Hello(self.peers.address, job)
        self.raylet = SimRaylet()
        self.peers.raylet = cast(Any, self.raylet)
        self.references = References(self.peers)
        self.references.on_ended = lambda _id, _entry: None
        self.references.on_missing = self._missing
        self.table = self.references.table
        self.peers.handlers[m.Hello] = lambda c, hello: self.peers.introduced(c, hello.address)
        self.peers.handlers[m.PushTask] = self._on_push
        self.peers.handlers[m.TaskDone] = self._on_done
        self.peers.on_closed.append(cast(Any, self._on_closed))
        self.new_task_id = TaskIDFactory(JOB)
        self.refs: list[bytes] = []
        self.owners: dict[bytes, Address] = {}
        self.tasks: dict[bytes, Task] = {}
        self.queue: deque[Running] = deque()
        self.running: list[Running] = []
        self.replies: deque[tuple[Running, m.TaskDone]] = deque()

    def _missing(self, _object_id: bytes, _entry: ObjectEntry) -> None:
        raise AssertionError("a value was given back that somebody still needs")

    # --- what a program does --------------------

    def put(self, contained: list[bytes], stored: bool) -> bytes:
        object_id = return_id(self.new_task_id(), 0)
        entry = self.table.add_owned(object_id)
        entry.value = self._value(contained, stored)
        if contained:
            entry.contained = list(contained)
            self.references.note(contained, 1)
        return self._own(object_id)

    def _value(self, contained: list[bytes], stored: bool) -> Value:
        inner = [ContainedRef(object_id, self.owners[object_id]) for object_id in contained]
        return Value(None if stored else b"", Stored(1, [NODE]) if stored else None, False, inner)

    def _own(self, object_id: bytes) -> bytes:
        self.owners[object_id] = self.peers.address
        self.refs.append(object_id)
        return object_id

    def drop(self, object_id: bytes) -> None:
        self.refs.remove(object_id)
        self.references.released.append((object_id, -1))

    def submit(self, worker: SimProcess, plain: list[bytes], inside: list[bytes]) -> bytes:
        """A task with ref arguments, and with refs inside of arguments."""
        spec = TaskSpec(
            self.new_task_id(), JOB, b"", "", b"x",
            [Dependency(object_id, self.owners[object_id]) for object_id in plain],
            [ContainedRef(object_id, self.owners[object_id]) for object_id in inside],
        )  # fmt: skip
        self.references.note(plain, 1)
        self.references.note(inside, 1)
        object_id = return_id(spec.task_id, 0)
        self.table.add_owned(object_id)
        task = self.tasks[spec.task_id] = Task(spec, worker)
        self.reactor.post(lambda: self._resolve(task))
        return self._own(object_id)

    def _resolve(self, task: Task) -> None:
        task.unresolved = 1
        for dependency in task.spec.dependencies:
            entry = self.table.borrow(dependency.object_id, dependency.owner)
            task.unresolved += 1

            def fill(entry: ObjectEntry = entry, dependency: Dependency = dependency) -> None:
                dependency.value = entry.value
                self._resolved(task)

            if entry.value is None:
                self.references.fetch(dependency.object_id, entry)
            entry.when_complete(fill)
        self._resolved(task)

    def _resolved(self, task: Task) -> None:
        task.unresolved -= 1
        if not task.unresolved:
            task.connection = cast(Any, self.peers.connect(task.worker.peers.address))
            assert task.connection is not None
            task.connection.send(m.PushTask(task.spec))

    def fetch(self, object_id: bytes) -> None:
        """Have a value brought."""
        entry = self.table.get(object_id)
        if entry is not None and entry.value is None:
            self.reactor.post(lambda: self.references.fetch(object_id, entry))

    def open(self, object_id: bytes, value: Value) -> list[bytes]:
        """Unpickle a value: the refs in it, as `Values._rebuild` makes them."""
        found = []
        for ref in value.contained:
            entry = self._rebuilt(ref)
            if entry.owner is not None and not entry.registered:
                self.reactor.post(partial(self.references.found_in, object_id, ref.object_id))
            found.append(ref.object_id)
        return found

    def _rebuilt(self, ref: ContainedRef) -> ObjectEntry:
        self.owners[ref.object_id] = ref.owner
        return self.references.refer(ref.object_id, ref.owner)

    # --- a worker --------------------

    def _on_push(self, connection: Any, message: m.PushTask) -> None:
        self.queue.append(Running(message.spec, connection))

    def start(self) -> Running:
        """Unpack the arguments of the next task."""
        task = self.queue.popleft()
        for ref in task.spec.contained:
            self._rebuilt(ref)
            task.refs.append(ref.object_id)
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
            self.references.note(give, 1)
        for object_id in task.refs:
            self.references.released.append((object_id, -1))
        for object_id in keep:
            self.references.released.append((object_id, 1))
            self.refs.append(object_id)
        self.replies.append((task, m.TaskDone(task.spec.task_id, [value], 0.0)))

    def _reply(self, task: Running, done: m.TaskDone) -> None:
        arguments = {d.object_id for d in task.spec.dependencies}
        arguments.update(ref.object_id for ref in task.spec.contained)

        def send(kept: list[bytes]) -> None:
            done.borrowed = kept
            held = [ref.object_id for value in done.values for ref in value.contained]
            if held:
                self.references.hand_over(cast(Any, task.connection), done.task_id, held)
            task.connection.send(done)

        self.references.keep_arguments(arguments, task.connection.state.worker_id, send)

    # --- a submitter --------------------

    def _on_done(self, connection: Any, message: m.TaskDone) -> None:
        task = self.tasks.pop(message.task_id, None)
        if task is None:
            return
        references, worker_id = self.references, connection.state.worker_id
        for object_id in message.borrowed:
            references.kept_by(object_id, worker_id)
        object_id, value = return_id(message.task_id, 0), message.values[0]
        entry = self.table.get(object_id)
        handed_over: list[ContainedRef] = []
        if entry is None:
            references.free(object_id, value)
        else:
            if value.contained:
                entry.contained = [ref.object_id for ref in value.contained]
                handed_over += value.contained
            self.table.complete(object_id, value)
            if entry.local <= 0:
                references.release(object_id)
        if value.contained:
            references.take_over(handed_over, lambda: self._handover_done(message, worker_id))
        references.note(counted(task.spec), -1)

    def _handover_done(self, message: m.TaskDone, worker_id: bytes) -> None:
        connection = self.peers.find(worker_id)
        if connection is not None:
            connection.send(m.HandoverDone(message.task_id))

    def _on_closed(self, connection: End) -> None:
        for task in [task for task in self.tasks.values() if task.connection is connection]:
            del self.tasks[task.spec.task_id]
            self.table.complete(return_id(task.spec.task_id, 0), ERROR)
            self.references.note(counted(task.spec), -1)

    # --- time --------------------

    def turn(self) -> bool:
        """What a turn of the reactor does before it reads; whether there was anything."""
        busy = bool(self.reactor.inbox or self.references.released or self.replies)
        while self.reactor.inbox:
            self.reactor.inbox.popleft()()
        self.references.count_released()
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
