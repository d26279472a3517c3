"""The lease protocol against a model: two submitters and a raylet, and any order of messages.

The product's own `TaskSubmitter`, `LeaseManager`, `Scheduler` and `WorkerPool` talk over queues.
Tasks are submitted, run, raise, block, are given back and cancelled; workers start, die and break
their connections, and submitters die, whenever hypothesis says so. Resources must add up at
any moment, a worker must have one holder, and in the end every task has its answer, and nothing is
taken, leased, wished for or remembered.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.common.config import Config
from nbray.core_worker.submit.leasing import TaskSubmitter
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import PendingTask, PickledFunction
from nbray.raylet.nodes import NodeTable
from nbray.raylet.process import Process
from nbray.raylet.workers.leases import LeaseManager
from nbray.raylet.workers.pool import Worker, WorkerPool
from nbray.raylet.workers.resource_set import Allocation
from nbray.raylet.workers.scheduler import Scheduler
from nbray.wire import messages as m
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.gcs_messages import NodeChanges
from nbray.wire.records import Address, JobConfig, NodeInfo, TaskSpec
from nbray.wire.strategies import Shape, Spread

NODE = b"n" * 28
KILLED = Cause(CauseKind.ENDED, "it was killed")
TOTAL = {"CPU": 30_000, "custom": 10_000}
SHAPES = [
    Shape((("CPU", 10_000),)),
    Shape((("CPU", 20_000),)),
    Shape((("CPU", 10_000), ("custom", 10_000))),
    Shape((("CPU", 5_000),), Spread()),
]


class Wire:
    """One direction of a connection: messages that are under way."""

    def __init__(self, take: Callable[[m.Message], None]) -> None:
        self.take = take
        self.queue: deque[m.Message] = deque()
        self.closed = False
        self.established = True
        self.known_functions: set[bytes] = set()

    def send(self, message: m.Message) -> None:
        if not self.closed:
            self.queue.append(message)


class Pool(WorkerPool):
    """The real one, but for the forks and the signals."""

    def __init__(self) -> None:
        super().__init__(cast(Any, SimpleNamespace()), "", "", cast(Any, None), 30.0)
        self.forked = 0
        self.starting: list[Worker] = []
        self.dying: list[Worker] = []

    def _fork(self, env: Any) -> None:
        self.forked += 1
        worker = Worker(self.forked.to_bytes(28, "big"), "", env)
        self.workers[worker.worker_id] = worker
        self._starting[env.text] += 1
        self.starting.append(worker)

    def kill(self, worker: Worker, intended: bool = True) -> None:
        super().kill(worker, intended)
        if worker.worker_id in self.workers and worker not in self.dying:
            self.dying.append(worker)


class Submitter:
    """A process with the real `TaskSubmitter`, and as much around it as that needs."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.timers: list[Callable[[], None]] = []
        self.answers: dict[bytes, list[str]] = {}
        self.workers: dict[bytes, Wire] = {}
        self.handlers: dict[type, Callable[..., None]] = {}
        self.on_closed: list[Callable[..., None]] = []
        self.waiting: list[tuple[bytes, Callable[[Any], None]]] = []
        self.known: dict[bytes, Cause] = {}
        self.alive = True
        self.number = number
        self.submitter_dirty = False
        self.config = Config()
        self.address = Address(bytes([number]) * 28, NODE, "", "", 0)
        self.job = JobConfig(bytes([number]) * 4, "", self.address, [], "")
        self.process = Process(cast(Any, None), is_driver=True)
        self.to_raylet = Wire(lambda message: cluster.at_raylet(self, message))
        self.process.connection = cast(Any, Wire(self.receive))
        self.peers = SimpleNamespace(
            handlers=self.handlers, on_closed=self.on_closed, raylet=self.to_raylet,
            connect=self.connect, address=self.address,
        )  # fmt: skip
        self.reactor = SimpleNamespace(call_later=lambda _s, action: self.timers.append(action))
        self.results = SimpleNamespace(
            fail=self.fail, finish=self.finish, is_retriable=lambda _done, _options: True,
            fail_cancelled=lambda spec: self.answer(spec, "cancelled"),
            forget_attempt=lambda _spec, _worker, _done: None,
            fail_crashed=lambda spec, _cause: self.answer(spec, "crashed"),
        )  # fmt: skip
        self.crashes = SimpleNamespace(when_known=self.when_known)
        self.events = SimpleNamespace(failed=lambda _spec, _error: None)
        self.handlers[m.WorkerDied] = self.on_died
        self.tasks = TaskSubmitter(cast(Any, self))

    def answer(self, spec: TaskSpec, what: str) -> None:
        self.answers[spec.task_id].append(what)

    def fail(self, spec: TaskSpec, error: Exception) -> None:
        self.answer(spec, type(error).__name__)

    def finish(self, task: PendingTask, _worker: bytes, _done: m.TaskDone) -> None:
        self.answer(task.spec, "done")

    def connect(self, address: Address) -> Wire:
        wire = self.workers.get(address.worker_id)
        if wire is None:
            wire = Wire(lambda message: self.cluster.at_worker(self, address.worker_id, message))
            self.workers[address.worker_id] = wire
            if address.worker_id not in self.cluster.pool.workers:
                self.timers.append(lambda: self.lose(address.worker_id))
        return wire

    def lose(self, worker_id: bytes) -> None:
        """The connection to a worker ends."""
        wire = self.workers.pop(worker_id, None)
        if wire is not None:
            wire.closed = True
            for hook in self.on_closed:
                hook(wire)

    def when_known(self, worker_id: bytes, _raylet: Wire, then: Callable[[Any], None]) -> None:
        if worker_id in self.known:
            then(self.known[worker_id])
        else:
            self.waiting.append((worker_id, then))

    def on_died(self, _raylet: Any, message: m.WorkerDied) -> None:
        self.known[message.worker_id] = message.cause
        for worker_id, then in [w for w in self.waiting if w[0] == message.worker_id]:
            self.waiting.remove((worker_id, then))
            then(message.cause)

    def receive(self, message: m.Message) -> None:
        self.handlers[type(message)](self.to_raylet, message)

    def turn(self) -> None:
        if self.submitter_dirty:
            self.submitter_dirty = False
            self.tasks.dispatch()

    def submit(self, shape: Shape, retries: int) -> bytes:
        task_id = self.number.to_bytes(4, "big") + len(self.answers).to_bytes(20, "big")
        spec = TaskSpec(task_id, self.job.job_id, b"f", "", b"")
        self.answers[spec.task_id] = []
        task = PendingTask(spec, PickledFunction(b"", b"", ()), TaskOptions(shape, retries=retries))
        self.tasks.accept(task)
        self.tasks.enqueue(task)
        self.submitter_dirty = True
        return spec.task_id


class Cluster:
    """A raylet, its workers and two submitters."""

    def __init__(self) -> None:
        row = NodeInfo(NODE, "", 0, 0, "", True, True, dict(TOTAL), {})
        self.scheduler = Scheduler(row, random.Random(0))
        self.pool = Pool()
        nodes = NodeTable(NODE, cast(Any, None), b"")
        nodes.apply(NodeChanges(b"", 0, 0, [row], complete=True))
        self.leases = LeaseManager(row, self.scheduler, self.pool, nodes)
        self.pool.on_exit = lambda worker: self.leases.worker_gone(worker, KILLED)
        self.submitters = [Submitter(self, number) for number in (1, 2)]
        self.at: dict[bytes, deque[tuple[Submitter, TaskSpec]]] = {}
        self.blocked: dict[bytes, Process] = {}

    def at_raylet(self, sender: Submitter, message: m.Message) -> None:
        match message:
            case m.RequestLease():
                self.leases.request(sender.process, message)
            case m.Backlog():
                self.leases.note_backlog(sender.process, message)
            case m.ReturnLease():
                self.leases.return_lease(sender.process, message)
            case m.CancelLeaseRequest():
                self.leases.cancel(sender.process, message)
            case _:
                raise AssertionError(message)

    def at_worker(self, sender: Submitter, worker_id: bytes, message: m.Message) -> None:
        if isinstance(message, m.PushTask) and worker_id in self.pool.workers:
            self.at.setdefault(worker_id, deque()).append((sender, message.spec))

    def wires(self) -> list[Wire]:
        """Where a message is under way."""
        found = []
        for submitter in self.submitters:
            if submitter.alive:
                found += [submitter.to_raylet, cast(Wire, submitter.process.connection)]
                found += submitter.workers.values()
        return [wire for wire in found if wire.queue]

    def start_worker(self, worker: Worker) -> None:
        self.pool.starting.remove(worker)
        if worker.worker_id in self.pool.workers:
            worker.address = Address(worker.worker_id, NODE, "", "", 0)
            self.pool.registered(worker)

    def end_worker(self, worker: Worker) -> None:
        """Its process has ended: the raylet reaps it, and connections to it break."""
        if worker in self.pool.dying:
            self.pool.dying.remove(worker)
        self.at.pop(worker.worker_id, None)
        self.blocked.pop(worker.worker_id, None)
        self.pool._remove(worker)
        self.pool.on_exit(worker)

    def finish_task(self, worker_id: bytes, retry: bool) -> None:
        sender, spec = self.at[worker_id].popleft()
        self.unblock(worker_id)
        if sender.alive and worker_id in sender.workers:
            sender.tasks.on_done(worker_id, m.TaskDone(spec.task_id, [], 0.001, retry=retry))

    def block(self, worker_id: bytes) -> None:
        """The task waits in get: those behind it go back, its CPUs are lent."""
        queue = self.at[worker_id]
        first = queue.popleft()
        for sender in self.submitters:
            back = [spec.task_id for owner, spec in queue if owner is sender]
            if back and sender.alive and worker_id in sender.workers:
                sender.handlers[m.TasksReturned](sender.workers[worker_id], m.TasksReturned(back))
        queue.clear()
        queue.append(first)
        process = self.blocked[worker_id] = Process(cast(Any, None), worker_id)
        self.leases.lend(process)

    def unblock(self, worker_id: bytes) -> None:
        process = self.blocked.pop(worker_id, None)
        if process is not None:
            self.leases.take_back(process)

    def leased(self) -> list[Allocation]:
        return [lease.taken for lease in self.leases._leases.values()]


class Leases(RuleBasedStateMachine):
    """See the head of this module."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()

    def living(self) -> list[Submitter]:
        return [s for s in self.cluster.submitters if s.alive]

    @rule(data=st.data(), count=st.integers(1, 6), retries=st.sampled_from([0, 3, -1]))
    def submit(self, data: st.DataObject, count: int, retries: int) -> None:
        submitter = data.draw(st.sampled_from(self.living()), label="submitter")
        shape = data.draw(st.sampled_from(SHAPES), label="shape")
        for _ in range(count):
            submitter.submit(shape, retries)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        submitter = data.draw(st.sampled_from(self.living()), label="submitter")
        open_tasks = [t for t, answers in submitter.answers.items() if not answers]
        if open_tasks:
            submitter.tasks.cancel(data.draw(st.sampled_from(open_tasks)), force=False)

    @rule(seed=st.integers(0, 1 << 30), steps=st.integers(1, 12))
    def go_on(self, seed: int, steps: int) -> None:
        """Messages arrive, workers start and tasks end, in a random order."""
        generator = random.Random(seed)
        for _ in range(steps):
            self.step(generator)

    def step(self, generator: random.Random) -> bool:
        cluster = self.cluster
        choices: list[Callable[[], None]] = []
        for wire in cluster.wires():
            choices.append(lambda wire=wire: wire.take(wire.queue.popleft()))
        for submitter in self.living():
            if submitter.submitter_dirty:
                choices.append(submitter.turn)
            for worker_id in submitter.workers:
                if worker_id not in cluster.pool.workers:
                    choices.append(lambda s=submitter, w=worker_id: s.lose(w))
        for worker in cluster.pool.starting:
            choices.append(lambda worker=worker: cluster.start_worker(worker))
        for worker in cluster.pool.dying:
            choices.append(lambda worker=worker: cluster.end_worker(worker))
        for worker_id, queue in cluster.at.items():
            if queue and worker_id in cluster.pool.workers:
                retry = generator.random() < 0.1
                choices.append(lambda w=worker_id, retry=retry: cluster.finish_task(w, retry))
        if choices:
            generator.choice(choices)()
        return bool(choices)

    @rule(data=st.data())
    def block(self, data: st.DataObject) -> None:
        able = [
            w for w, queue in self.cluster.at.items() if queue and w not in self.cluster.blocked
        ]
        if able:
            self.cluster.block(data.draw(st.sampled_from(able), label="worker"))

    @rule(data=st.data())
    def timers(self, data: st.DataObject) -> None:
        """What a submitter wanted to do later: look for idle leases, ask again."""
        submitter = data.draw(st.sampled_from(self.living()), label="submitter")
        timers, submitter.timers = submitter.timers, []
        for action in timers:
            action()

    @rule()
    def share(self) -> None:
        self.cluster.leases.share(0.0)

    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        workers = [w for w in self.cluster.pool.workers.values() if w.address is not None]
        if workers:
            self.cluster.end_worker(data.draw(st.sampled_from(workers), label="worker"))

    @rule(data=st.data())
    def connection_breaks(self, data: st.DataObject) -> None:
        submitter = data.draw(st.sampled_from(self.living()), label="submitter")
        if submitter.workers:
            submitter.lose(data.draw(st.sampled_from(sorted(submitter.workers)), label="worker"))

    @precondition(lambda self: len(self.living()) > 1)
    @rule(data=st.data())
    def submitter_dies(self, data: st.DataObject) -> None:
        submitter = data.draw(st.sampled_from(self.living()), label="submitter")
        submitter.alive = False
        submitter.process.closed = True
        self.cluster.leases.process_gone(submitter.process)
        self.cluster.pool.finish_job(submitter.job.job_id)

    # --- what must hold --------------------

    @invariant()
    def resources_add_up(self) -> None:
        cluster = self.cluster
        available = cluster.scheduler.node.available
        taken = cluster.leased() + [a for a in self.on_their_way()]
        for name, total in TOTAL.items():
            used = sum(a.amounts.get(name, 0) for a in taken)
            lent = sum(a._lent for a in taken) if name == "CPU" else 0
            assert available[name] + used - lent == total, name

    def on_their_way(self) -> list[Allocation]:
        """Taken for a request that waits for its worker."""
        found = []
        for want in self.cluster.pool._wanted:
            cells = want.use.__closure__ or ()
            found += [c.cell_contents for c in cells if isinstance(c.cell_contents, Allocation)]
        return found

    @invariant()
    def a_worker_has_one_holder(self) -> None:
        leases = list(self.cluster.leases._leases.values())
        assert len({lease.worker.worker_id for lease in leases}) == len(leases)
        idle = [w for workers in self.cluster.pool._idle.values() for w in workers]
        assert len(set(map(id, idle))) == len(idle)
        assert not {id(lease.worker) for lease in leases} & set(map(id, idle))

    @invariant()
    def no_task_is_answered_twice(self) -> None:
        for submitter in self.cluster.submitters:
            assert all(len(answers) <= 1 for answers in submitter.answers.values())

    def teardown(self) -> None:
        generator = random.Random(0)
        for _ in range(200):
            while self.step(generator):
                pass
            for submitter in self.living():
                timers, submitter.timers = submitter.timers, []
                for action in timers:
                    action()
                submitter.submitter_dirty = True
                submitter.turn()
            self.cluster.leases.share(0.0)
            if not self.cluster.wires() and not self.open_tasks():
                break
        assert not self.open_tasks(), "tasks without an answer"
        for submitter in self.living():
            submitter.tasks.return_idle(-1.0)
        while self.step(generator):
            pass
        leases = self.cluster.leases
        assert self.cluster.scheduler.node.available == TOTAL
        assert not leases._leases and not leases._lease_of and not leases._wishes
        assert not self.cluster.scheduler.waiting
        for submitter in self.living():
            assert not submitter.tasks._tasks and not submitter.tasks._asking

    def open_tasks(self) -> list[bytes]:
        return [t for s in self.living() for t, answers in s.answers.items() if not answers]


TestLeases = Leases.TestCase
TestLeases.settings = settings(
    max_examples=int(os.environ.get("NBRAY_TEST_EXAMPLES", 50)), stateful_step_count=40,
    deadline=None, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
