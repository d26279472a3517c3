"""The lease protocol against a model: two submitters and a raylet, and any order of messages.

The product's own `Leasing`, `LeaseManager`, `Scheduler` and `WorkerPool` talk over queues.
Tasks are submitted, run, raise, block, are given back and cancelled; workers start, die and break
their connections, and submitters die, whenever hypothesis says so. Resources must add up at
any moment, a worker must have one holder, and in the end every task has its answer, and nothing is
taken, leased, wished for or remembered.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.pending import pending_task

from nbray.common.config import Config
from nbray.core_worker import decisions as d
from nbray.core_worker.identity import Identity
from nbray.core_worker.submit.leasing import Leasing
from nbray.core_worker.task_options import TaskOptions
from nbray.raylet.nodes import NodeTable
from nbray.raylet.process import Process
from nbray.raylet.workers.leases import LeaseManager
from nbray.raylet.workers.node_resources import NodeResources
from nbray.raylet.workers.pool import WorkerPool
from nbray.raylet.workers.resource_set import Allocation
from nbray.raylet.workers.scheduler import Scheduler
from nbray.raylet.workers.worker import Worker
from nbray.raylet.workers.worker_life import State
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
        self.peer = "a submitter"

    def send(self, message: m.Message) -> None:
        if not self.closed:
            self.queue.append(message)


class Starting:
    """In the place of `Forks`: workers start, and die, when the test says so."""

    def __init__(self) -> None:
        self.workers: dict[bytes, Worker] = {}
        self.forked = 0
        self.counts: Counter[str] = Counter()
        self.under_way: list[Worker] = []
        self.dying: list[Worker] = []

    def start(self, env: Any) -> None:
        self.forked += 1
        worker = SimWorker(self.forked.to_bytes(28, "big"), "", env)
        worker.starting = self
        self.workers[worker.worker_id] = worker
        self.counts[env.text] += 1
        self.under_way.append(worker)

    def starting(self, env: str) -> int:
        return self.counts[env]

    def last_failure(self, _env: str) -> str:
        return ""

    def ready(self, worker: Worker) -> None:
        self.counts[worker.env.text] -= 1


class SimWorker(Worker):
    """A worker without a process."""

    starting: Starting

    def kill(self) -> None:
        if self not in self.starting.dying:
            self.starting.dying.append(self)


class Submitter:
    """A process with the real `Leasing`, whose decisions are carried out over queues."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.timers: list[Callable[[float], None]] = []
        self.answers: dict[bytes, list[str]] = {}
        self.workers: dict[bytes, Wire] = {}
        self.alive = True
        self.number = number
        self.now = 0.0
        self.me = Identity(bytes([number]) * 28)
        self.me.address = Address(self.me.worker_id, NODE, "", "", 0)
        self.me.job = JobConfig(bytes([number]) * 4, "", self.me.address, [], "")
        self.process = Process(cast(Any, None), is_driver=True)
        self.to_raylet = Wire(lambda message: cluster.at_raylet(self, message))
        self.process.connection = cast(Any, Wire(self.receive))
        self.decisions: deque[Any] = deque()
        self.tasks = Leasing(self.me, Config(), self.decisions, lambda _done, _options: True)

    @property
    def is_busy(self) -> bool:
        """Whether a turn would do anything."""
        return self.tasks.dirty or bool(self.decisions)

    def connect(self, address: Address) -> Wire:
        wire = self.workers.get(address.worker_id)
        if wire is None:
            wire = Wire(lambda message: self.cluster.at_worker(self, address.worker_id, message))
            self.workers[address.worker_id] = wire
            if address.worker_id not in self.cluster.pool.workers:
                self.timers.append(lambda _now: self.lose(address.worker_id))
        return wire

    def lose(self, worker_id: bytes) -> None:
        """The connection to a worker ends."""
        self.turn()
        if self.workers.pop(worker_id, None) is not None:
            self.tasks.worker_gone(worker_id, established=True)

    def receive(self, message: m.Message) -> None:
        match message:
            case m.LeaseGranted():
                self.tasks.granted(NODE, message, self.now)
            case m.LeaseSpilled():
                self.tasks.spilled(message)
            case m.LeaseRefused():
                self.tasks.refused(message)
            case m.ReclaimLeases():
                self.tasks.reclaimed(NODE, message)
            case m.WorkerDied():
                self.tasks.worker_died(message)
            case _:
                raise AssertionError(message)

    def done(self, message: m.TaskDone) -> None:
        """A worker's reply."""
        pending = self.tasks.find(message.task_id)
        if pending is not None:
            task = self.tasks.done(pending, b"", message, self.now)
            if task is not None:
                self.answers[message.task_id].append("done")

    def turn(self) -> None:
        """Carry out what was decided, as `edge` does."""
        while self.is_busy:
            if self.tasks.dirty:
                self.tasks.dispatch()
            while self.decisions:
                self.carry_out(self.decisions.popleft())

    def carry_out(self, decision: Any) -> None:
        match decision:
            case d.Push():
                for task in decision.tasks:
                    self.connect(decision.worker).send(m.PushTask(task.spec))
            case d.AskLease():
                self.to_raylet.send(decision.request)
            case d.ToRaylet():
                self.to_raylet.send(decision.message)
            case d.Connect():
                self.connect(decision.worker)
            case d.Failed():
                self.answers[decision.spec.task_id].append(type(decision.error).__name__)
            case d.WakeAfter():
                self.timers.append(decision.wake)
            case d.AttemptFailed() | d.AttemptRaised():
                return
            case _:
                raise AssertionError(decision)

    def submit(self, shape: Shape, retries: int) -> bytes:
        task_id = self.number.to_bytes(4, "big") + len(self.answers).to_bytes(20, "big")
        spec = TaskSpec(task_id, self.me.job.job_id, b"f", "", b"")
        self.answers[spec.task_id] = []
        task = pending_task(spec, TaskOptions(shape, retries=retries))
        self.tasks.tasks[task.first] = task
        self.tasks.enqueue(task)
        return spec.task_id


class Cluster:
    """A raylet, its workers and two submitters."""

    def __init__(self) -> None:
        row = NodeInfo(NODE, "", 0, 0, "", True, True, dict(TOTAL), {})
        self.resources = NodeResources(row)
        self.scheduler = Scheduler(self.resources, random.Random(0))
        self.starting = Starting()
        self.pool = WorkerPool(
            lambda _pool: self.starting,
            30.0,
            lambda worker: self.leases.worker_gone(worker, KILLED),
        )
        nodes = NodeTable(NODE, cast(Any, None), b"")
        nodes.apply(NodeChanges(b"", 0, 0, [row], complete=True))
        self.leases = LeaseManager(
            row,
            self.scheduler,
            self.pool,
            cast(Any, None),
            nodes,
            cast(Any, None),
            lambda _id: None,
            lambda: False,
            2.0,
        )
        self.submitters = [Submitter(self, number) for number in (1, 2)]
        self.at: dict[bytes, deque[tuple[Submitter, TaskSpec]]] = {}
        self.blocked: dict[bytes, Process] = {}

    def at_raylet(self, sender: Submitter, message: m.Message) -> None:
        if sender.process.silent:
            self.leases.speaks(sender.process)
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
        self.starting.under_way.remove(worker)
        if worker.worker_id in self.pool.workers:
            worker.address = Address(worker.worker_id, NODE, "", "", 0)
            self.pool.registered(worker)

    def end_worker(self, worker: Worker) -> None:
        """Its process has ended: the raylet reaps it, and connections to it break."""
        if worker in self.starting.dying:
            self.starting.dying.remove(worker)
        self.at.pop(worker.worker_id, None)
        self.blocked.pop(worker.worker_id, None)
        del self.pool.workers[worker.worker_id]
        worker.gone()
        self.pool.worker_ended(worker)

    def finish_task(self, worker_id: bytes, retry: bool) -> None:
        sender, spec = self.at[worker_id].popleft()
        self.unblock(worker_id)
        if sender.alive and worker_id in sender.workers:
            sender.done(m.TaskDone(spec.task_id, [], 0.001, retry=retry))

    def block(self, worker_id: bytes) -> None:
        """The task waits in get: those behind it go back, its CPUs are lent."""
        queue = self.at[worker_id]
        first = queue.popleft()
        for sender in self.submitters:
            back = [spec.task_id for owner, spec in queue if owner is sender]
            if back and sender.alive and worker_id in sender.workers:
                sender.tasks.returned(m.TasksReturned(back), sender.now)
        queue.clear()
        queue.append(first)
        process = self.blocked[worker_id] = Process(cast(Any, None), worker_id)
        self.leases.lend(process, m.WorkerBlocked())

    def unblock(self, worker_id: bytes) -> None:
        process = self.blocked.pop(worker_id, None)
        if process is not None:
            self.leases.take_back(process, m.WorkerUnblocked())

    def leased(self) -> list[Allocation]:
        return [lease.taken for lease in self.scheduler.leases.values()]


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
            chosen = data.draw(st.sampled_from(open_tasks))
            if submitter.tasks.find(chosen) is not None:
                submitter.tasks.cancel(chosen, force=False)

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
            if submitter.is_busy:
                choices.append(submitter.turn)
            for worker_id in submitter.workers:
                if worker_id not in cluster.pool.workers:
                    choices.append(lambda s=submitter, w=worker_id: s.lose(w))
        for worker in cluster.starting.under_way:
            choices.append(lambda worker=worker: cluster.start_worker(worker))
        for worker in cluster.starting.dying:
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
            action(submitter.now)

    @rule()
    def share(self) -> None:
        self.cluster.leases.share(0.0)

    @rule(data=st.data())
    def stands_still(self, data: st.DataObject) -> None:
        """A submitter leaves a worker idle for so long that it is taken from it."""
        unused = [
            lease
            for lease in self.cluster.scheduler.leases.values()
            if not self.cluster.at.get(lease.worker_id)
        ]
        if unused:
            self.cluster.leases.take_from_silent(data.draw(st.sampled_from(unused), label="lease"))

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
        self.cluster.pool.finish_job(submitter.me.job.job_id)

    # --- what must hold --------------------

    @invariant()
    def resources_add_up(self) -> None:
        cluster = self.cluster
        available = cluster.resources.node.available
        taken = cluster.leased() + [a for a in self.on_their_way()]
        for name, total in TOTAL.items():
            used = sum(a.amounts.get(name, 0) for a in taken)
            lent = sum(a._lent for a in taken) if name == "CPU" else 0
            assert available[name] + used - lent == total, name

    def on_their_way(self) -> list[Allocation]:
        """Taken for a request that waits for its worker."""
        found = []
        for want in self.cluster.pool._all_wanted():
            found.append(cast(Any, want.use).args[0].taken)
        return found

    @invariant()
    def a_worker_has_one_holder(self) -> None:
        leases = list(self.cluster.scheduler.leases.values())
        assert len({lease.worker_id for lease in leases}) == len(leases)
        idle = [w for workers in self.cluster.pool._idle.values() for w in workers]
        assert len(set(map(id, idle))) == len(idle)
        assert not {lease.worker_id for lease in leases} & {w.worker_id for w in idle}
        assert all(worker.state is State.IDLE for worker in idle)

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
                    action(submitter.now)
                submitter.turn()
            self.cluster.leases.share(0.0)
            if not self.cluster.wires() and not self.open_tasks():
                break
        assert not self.open_tasks(), "tasks without an answer"
        for submitter in self.living():
            submitter.tasks.return_idle(submitter.now, -1.0)
            submitter.turn()
        while self.step(generator):
            pass
        leases = self.cluster.leases
        assert self.cluster.resources.node.available == TOTAL
        assert not self.cluster.scheduler.leases and not leases._lease_of and not leases._requested
        assert not self.cluster.scheduler.waiting and not self.cluster.scheduler._aside
        for submitter in self.living():
            assert not submitter.tasks.tasks and not submitter.tasks._asking

    def open_tasks(self) -> list[bytes]:
        return [t for s in self.living() for t, answers in s.answers.items() if not answers]


TestLeases = Leases.TestCase
TestLeases.settings = settings(
    max_examples=int(os.environ.get("NBRAY_TEST_EXAMPLES", 50)), stateful_step_count=40,
    deadline=None, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


def pushed_at_once(retries: list[int]) -> int:
    """How many tasks, so often to be run again, one worker is given; a first one was short."""
    submitter = Submitter(Cluster(), 1)
    tasks, worker = submitter.tasks, Address(b"w" * 28, NODE, "", "", 0)
    first = submitter.submit(SHAPES[0], 3)
    tasks.dispatch()
    asked = submitter.decisions.popleft()
    tasks.granted(NODE, m.LeaseGranted(asked.request.request_id, 1, worker), 0.0)
    tasks.dispatch()
    submitter.done(m.TaskDone(first, [], 0.0001))
    submitter.decisions.clear()
    for often in retries:
        submitter.submit(SHAPES[0], often)
    tasks.dispatch()
    return sum(len(x.tasks) for x in submitter.decisions if isinstance(x, d.Push))


def test_what_may_not_be_run_again_is_never_pushed_behind_another() -> None:
    """If its worker dies, it has to be known whether it had begun."""
    assert pushed_at_once([3] * 8) == 8
    assert pushed_at_once([0] * 8) == 1
    assert pushed_at_once([3, -1, 0, 3]) == 2


def test_nothing_is_pushed_behind_what_may_not_be_run_again() -> None:
    """If its worker dies of the one behind, its reply may be lost."""
    assert pushed_at_once([0, 3, 3]) == 1


def test_a_worker_that_others_wait_for_goes_back_when_another_has_taken_what_it_came_for() -> None:
    """It is idle from the start, and no task of it ends by which that would be noticed."""
    submitter = Submitter(Cluster(), 1)
    tasks = submitter.tasks
    first = submitter.submit(SHAPES[0], 3)
    second = submitter.submit(SHAPES[0], 3)
    tasks.dispatch()
    asked = [x.request.request_id for x in submitter.decisions if isinstance(x, d.AskLease)]
    workers = [Address(bytes([number]) * 28, NODE, "", "", 0) for number in range(2)]
    tasks.granted(NODE, m.LeaseGranted(asked[0], 1, workers[0]), 0.0)
    tasks.dispatch()
    submitter.done(m.TaskDone(first, [], 0.0001))
    tasks.granted(NODE, m.LeaseGranted(asked[1], 2, workers[1], wanted=True), 0.0)
    submitter.decisions.clear()
    tasks.dispatch()
    (pushed,) = [x for x in submitter.decisions if isinstance(x, d.Push)]
    assert (pushed.worker, [task.task_id for task in pushed.tasks]) == (workers[0], [second])
    back = [x.message for x in submitter.decisions if isinstance(x, d.ToRaylet)]
    assert back == [m.ReturnLease(2)]


def test_a_worker_that_cannot_be_started_keeps_neither_resources_nor_other_news() -> None:
    cluster = Cluster()
    one, other = (submitter.process for submitter in cluster.submitters)
    job, told = cluster.submitters[0].me.job, list[m.Message]()
    wire = cast(Wire, one.connection)

    def request(number: int, process: Process) -> None:
        whole = m.RequestLease(number, job, dict(TOTAL))
        with contextlib.suppress(MemoryError):
            cluster.leases.request(process, whole)

    request(1, one)
    (first,) = cluster.starting.under_way
    cluster.start_worker(first)
    request(2, other)  # it waits for what the first one has
    working, cluster.starting.start = cluster.starting.start, _fails  # type: ignore[method-assign]
    with contextlib.suppress(MemoryError):
        cluster.end_worker(first)
    told += [*wire.queue, *cast(Wire, other.connection).queue]
    assert any(isinstance(message, m.WorkerDied) for message in told)
    assert any(isinstance(message, m.LeaseRefused) for message in told)
    assert cluster.resources.row.available == TOTAL
    cluster.starting.start = working  # type: ignore[method-assign]
    request(3, one)
    assert cluster.starting.under_way


def _fails(_env: Any) -> None:
    raise MemoryError
