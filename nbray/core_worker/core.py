"""CoreWorker: what a driver and a worker share. It builds the parts, and is their face for threads.

The life of a task, told once. `submit_task` (any thread) makes the refs and puts the task into
an inbox. The holder of the reactor's baton takes it from there: `Dependencies` waits until its
arguments are complete and puts small ones into the spec; `submit.leasing` leases a worker and
decides to push it, which `edge` does; the worker's `Executor` runs it and replies;
`own.endings` completes the objects, which wakes whoever waits in `get`.

The turn: count what was released, accept what is new, then carry out decisions until there is none.
"""

from __future__ import annotations

import concurrent.futures
import logging
import sys
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from nbray.common.accelerators import VisibleDevices
from nbray.common.config import Config
from nbray.common.giving_back import GivesBack, shrink
from nbray.common.ids import handle_id
from nbray.common.session import Session
from nbray.core_worker.actor_creation import ActorCreations
from nbray.core_worker.call_site import where_made
from nbray.core_worker.cancelling import Cancelling
from nbray.core_worker.context import TaskContext, current_origin
from nbray.core_worker.dependencies import Dependencies
from nbray.core_worker.edge import Edge
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.errors import error_value
from nbray.core_worker.own.owning import Owning
from nbray.core_worker.peers import Peers
from nbray.core_worker.placement_groups import PlacementGroups
from nbray.core_worker.ports import PendingWork
from nbray.core_worker.runtime_envs import RuntimeEnvs
from nbray.core_worker.submission import Submission
from nbray.core_worker.submit.calls import ActorCalls
from nbray.core_worker.submit.groups import Groups
from nbray.core_worker.submit.leasing import Leasing
from nbray.core_worker.tasks import ActorCall, PendingTask
from nbray.core_worker.tell.held_objects import HeldObjects
from nbray.core_worker.tell.metrics import recorded
from nbray.core_worker.tell.stacks import StackTeller
from nbray.core_worker.tell.task_counts import TaskCounts
from nbray.core_worker.tell.task_events import TaskEventLog, epoch
from nbray.core_worker.values import arguments
from nbray.core_worker.values.blocking import Blocking
from nbray.core_worker.values.memory import Attach, MappedMemory
from nbray.core_worker.values.readers import Readers
from nbray.core_worker.values.reading import Values
from nbray.core_worker.values.retries import is_retriable
from nbray.core_worker.values.serialization import Serialized, reduce_ref, serialize
from nbray.core_worker.values.shared_errors import SharedErrors
from nbray.core_worker.values.stored import StoredValues
from nbray.exceptions import NbraySystemError
from nbray.object_ref import UNKNOWN, Kin, ObjectRef, make_ref
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire import watching_messages as wm
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.connection import Connection, Ways
from nbray.wire.connections import Connections
from nbray.wire.reactor import STOPPED, Reactor
from nbray.wire.records import ActorSpec, Address, JobConfig, TaskSpec, ids_in
from nbray.wire.strategies import InGroup
from nbray.wire.tls import Tls

logger = logging.getLogger(__name__)

_NO_HANDLES = Cause(CauseKind.NO_HANDLES, "all its handles are gone")
_Future = TypeVar("_Future", bound=concurrent.futures.Future[Any])


class CoreWorker:
    """The runtime of one process; see the head of this module.

    Attributes:
        decisions: what the machines of `submit` have decided, for the edge to carry out.
        find_function: what a task of this process runs.
        given_up: why the cluster cannot be reached any more.
        on_executor_turn: sends what those that run here have to say in a turn.
        on_exit_actor: ends the actor that this process is.
        on_forked: what a fork of this process has to forget.
        on_job: is told of the job of this worker, once.
        on_output: shows what workers print.
        kin: of the refs of its own objects.
        on_warning: shows a line to the user, about what has that origin; a worker's stderr does.
        pickled_refs: those that the program pickled itself, which are held for ever.
        reports: send what is to be told before an answer, which may be the process's last word.
    """

    find_function: Callable[[TaskContext], Callable[..., Any]]
    kin: Kin
    on_exit_actor: Callable[[], None]
    readers: Readers

    def __init__(
        self, config: Config, token: bytes, worker_id: bytes, socket_path: str,
        ways: Ways | None = None, attach: Attach = MappedMemory, tls: Tls | None = None,
    ) -> None:  # fmt: skip
        """A process far from the cluster has ``ways`` of its own to it, and to its store."""
        self.config = config
        self.devices = VisibleDevices()
        self.pickled_refs: set[ObjectRef] = set()
        self.kin = self._cell_kin = UNKNOWN
        me = self.me = Identity(worker_id)
        reactor = self.reactor = Reactor()
        peers = self.peers = Peers(
            Connections(reactor, token, config, ways, tls), config, me, socket_path
        )  # fmt: skip
        self.decisions: deque[Any] = deque()
        self._build_owning_side(attach)
        self.leasing = Leasing(me, config, self.decisions, is_retriable)
        self.calls = ActorCalls(me, self.decisions, is_retriable, epoch())
        self.group_states = Groups(me, self.decisions)
        self.groups = PlacementGroups(
            me, self, self.table, self.group_states, reactor, peers, peers.gcs_patience_s
        )
        self.dependencies = Dependencies(
            self.table, self.borrowing, self.locations, config.max_inline_arguments_bytes,
            self.leasing.enqueue,
        )  # fmt: skip
        self.actors = ActorCreations(
            me, reactor, peers, peers, self.dependencies, self.counting.count_released,
            self._never_made, peers.gcs_patience_s,
        )  # fmt: skip
        self.counts = TaskCounts()
        self.submission = Submission(
            self, config, me, reactor, self.table, self.counting, self.streams, self.readers,
            self.dependencies, self.leasing, self.calls, self.counts,
        )  # fmt: skip
        self.submit_task = self.submission.submit_task
        self.submit_call = self.submission.submit_call
        self.check_room = self.submission.check_room
        self.cancelling = Cancelling(
            reactor, peers, self.table, self.counting, self.leasing, self.calls, self.decisions,
            self.submission.take_new,
        )  # fmt: skip
        self.runtime_envs = RuntimeEnvs(me, self, peers)
        self.events = TaskEventLog(me, self, self, config.task_events_per_s)
        self.stacks = StackTeller(self)
        self.held = HeldObjects(self.table, self.counting, self)
        self.reports = self.events.reports
        self.reports.append(lambda: recorded.tell(self))
        self.on_forked: list[Callable[[], None]] = []
        self.on_executor_turn: Callable[[], None] | None = None
        self.on_job: Callable[[JobConfig], None] = lambda job: None
        self.on_output: Callable[[wm.OutputLines | wm.OutputDisplay], None] | None = None
        self.on_says: Callable[[wm.TaskSays], None] = lambda message: None
        self.on_warning: Callable[[str, int], None] = lambda text, _origin: print(
            text, file=sys.stderr, flush=True
        )
        self.given_up: Exception | None = None
        self._gives_back = GivesBack(reactor, self._shrink)
        self.edge = Edge(self)
        peers.handlers.update(
            {
                m.Hello: self._on_hello,
                wm.OutputLines: self._on_output,
                wm.OutputDisplay: self._on_output,
                wm.TaskSays: lambda _worker, message: self.on_says(message),
                wm.SchedulingWarning: lambda _raylet, message: self.on_warning(
                    f"(raylet) {message.text}", message.origin
                ),
            }
        )
        reactor.on_turn, reactor.on_written = self._turn, self.written

    def _build_owning_side(self, attach: Attach) -> None:
        me, peers, reactor, config = self.me, self.peers, self.reactor, self.config
        own = Owning(
            me, peers, self._free, self, self,
            lambda table: SharedErrors(me, table, self.borrowed_ref).share, allocate_lock(),
            config.max_lineage_bytes,
        )  # fmt: skip
        table = self.table = own.table
        self.released = table.released
        self.lineage, self.counting, self.borrowing = own.lineage, own.counting, own.borrowing
        self.locations, self.streams, self.endings = own.locations, own.streams, own.endings
        self.blocking = Blocking(reactor)
        self.stored = StoredValues(
            config, me, reactor, peers, self.blocking, self.locations.find, attach,
            self.count_soon,
        )  # fmt: skip
        self.values = Values(
            self, table, self.counting, self.borrowing, self.stored, reactor, self.blocking
        )
        self.get_one = self.values.get_one
        self.readers = Readers(me, self, table, self.streams, self.values, reactor)

    # --- start and stop --------------------

    def begin(self, worker_id: bytes, socket_path: str) -> None:
        """This process is a fork of the one that built this: it is that worker from now on.

        What is built before the fork, a worker need not build; all that is of the kernel, and all
        that names the process or tells the time, is made anew.
        """
        self.me.worker_id = worker_id
        self.peers.socket_path = socket_path
        self.calls.epoch = epoch()
        self.events.set_clock()
        self.reactor.renew()

    @property
    def worker_id(self) -> bytes:
        """The id of this process."""
        return self.me.worker_id

    @property
    def address(self) -> Address:
        """Where this process listens."""
        return self.me.address

    @property
    def job(self) -> JobConfig:
        """The job that this process works for."""
        return self.me.job

    @property
    def actor(self) -> ActorSpec | None:
        """The actor that this process is, if it is one."""
        return self.me.actor

    @property
    def actor_group(self) -> InGroup | None:
        """The placement group of its actor."""
        return self.me.actor_group

    @property
    def session(self) -> Session:
        """The folder of this node's sockets and logs."""
        return Session(Path(self.peers.socket_path).parent.parent)

    def joined(self, node_id: bytes, arena_path: str, arena_size: int) -> None:
        """The raylet took this process in."""
        self.peers.joined(node_id)
        self.kin = Kin(self, self.me.address, self.table.died, self.reactor)
        self.stored.attach(arena_path, arena_size)
        self.lineage.value_limit = self.config.max_lineage_value_bytes or arena_size

    def stop(self) -> None:
        """Leave the cluster; who still waits here, in whatever thread, gets an error.

        Arrays that the program keeps stay what they are, as long as it keeps them.
        """
        self.tell_last()
        stopped = error_value(NbraySystemError(STOPPED))
        self.reactor.inbox.append(lambda: self.table.refuse_waits(stopped))
        self.peers.stop()
        self.stored.detach()
        self.kin = self._cell_kin = UNKNOWN

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
        self.reactor.inbox.extend(
            [*self.reports, lambda: self.leasing.return_idle(time.monotonic())]
        )

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
        held = [*(d.object_id for d in dependencies), *ids_in(contained)]
        held.extend(ref.binary() for ref in captured)
        return (payload, dependencies, contained), held

    def actor_ref(self, actor_id: bytes, arguments: list[bytes]) -> ObjectRef:
        """The ref that a new actor's handles carry: when it dies, the actor ends.

        ``arguments`` are what `actor_arguments` has referenced for it.
        """
        object_id = handle_id(actor_id)
        self.counting.hold_handles(object_id, arguments)
        return make_ref(object_id, self.kin)

    def kill_actor(self, actor_id: bytes, no_restart: bool) -> None:
        """End an actor; for this process it is dead at once when it does not restart."""
        self.reactor.post(lambda: self.calls.kill(actor_id, no_restart, time.monotonic()))

    def no_handles(self, actor_id: bytes, is_creator: bool) -> None:
        """No handle of an actor is left here. Under the baton."""
        self.calls.forget(actor_id)
        if is_creator:
            self.peers.to_raylet(m.KillActor(actor_id, _NO_HANDLES))

    def _never_made(self, actor_id: bytes, cause: Cause) -> None:
        self.calls.end(actor_id, cause, time.monotonic())

    # --- values (any thread) --------------------

    def put(self, value: Any, packed: Serialized | None = None) -> ObjectRef:
        """Make an object of ``value``, which may be ``packed`` already; this process owns it."""
        object_id = self.me.new_task_id.first()
        entry = self.table.add_owned(object_id)
        if self.config.record_ref_creation_sites:
            self.counting.sites[object_id] = where_made()
        try:
            if packed is None:
                packed = serialize(value)
            stored = self.stored.store(object_id, packed, self.me.address)
            if packed.contained:
                contained = ids_in(packed.contained)
                self.table.note(contained, 1)
                entry.tied().contained = contained
            entry.value = stored
            origin = current_origin()
            return make_ref(object_id, self.kin_of_cell(origin) if origin else self.kin)
        except BaseException:  # an interrupt, too: no ref of it leads anywhere
            self.stored.discard(object_id)
            self.released.append((object_id, -1))
            raise

    def get(self, refs: Sequence[ObjectRef], timeout: float | None = None) -> list[Any]:
        """The values of ``refs``; see `Values.get`."""
        return self.values.get(refs, timeout)

    def note(self, object_ids: Iterable[bytes], change: int) -> None:
        """Count that many references more of each at the next turn."""
        self.table.note(object_ids, change)

    def borrowed_ref(self, object_id: bytes, owner: Address) -> ObjectRef:
        """A ref that came from elsewhere, counted here; its owner is still to be told."""
        return self.values.borrowed_ref(object_id, owner)

    def adopted_ref(self, object_id: bytes, owner: Address) -> ObjectRef:
        """A ref that stood in no value that nbray knows: the owner is told here."""
        ref = self.values.borrowed_ref(object_id, owner)
        self.reactor.post(lambda: self.borrowing.adopt(object_id))
        return ref

    def kin_of_cell(self, origin: int) -> Kin:
        """That of the refs which a cell of the notebook makes."""
        if self._cell_kin.origin != origin:
            self._cell_kin = self.kin.at(origin)
        return self._cell_kin

    def reduced(self, ref: ObjectRef) -> tuple[Any, ...]:
        """How a ref pickles; see `reduce_ref`."""
        return reduce_ref(ref)

    def call_site(self, object_id: bytes) -> str:
        """The line that made a ref, if such are recorded."""
        return self.counting.sites.get(object_id, "")

    def future(self, ref: ObjectRef) -> concurrent.futures.Future[Any]:
        """A future of a value, whose callbacks may use the cluster."""
        return self.values.future(ref)

    def settle(self, ref: ObjectRef, future: _Future) -> _Future:
        """Have ``future`` set when the value is there; see `Values.settle`."""
        return self.values.settle(ref, future)

    def count_soon(self) -> None:
        """Count the refs that have died before whatever is posted after this."""
        self.reactor.post(self.counting.count_released)

    # --- what this process has submitted --------------------

    def is_needed(self) -> bool:
        """Whether others hold what this process owns, or run what it has submitted."""
        return self.borrowing.are_held_elsewhere() or any(True for _ in self.unfinished_work())

    def unfinished_work(self) -> Iterator[PendingWork]:
        """The tasks and calls without a reply. Under the baton."""
        return chain(self.leasing.unfinished(), self.calls.unfinished())

    def unfinished_counts(self) -> dict[str, int]:
        """How many of each function have not ended. Under the baton."""
        return self.counts.unfinished()

    def running_work(self) -> Iterator[TaskSpec]:
        """What leased workers and actors run, as far as this process knows. Under the baton."""
        return chain(self.leasing.running(), self.calls.running())

    def unfinished_tasks(self) -> list[bytes]:
        """The ids of the tasks and calls of this process whose results are not there yet."""
        return self.table.unfinished_tasks(self.job.job_id)

    # --- for lineage, under the baton --------------------

    def streams_still(self, task_id: bytes) -> bool:
        """Whether a task yields items and has no reply yet."""
        return self.streams.is_running(task_id)

    def is_unfinished(self, task: PendingWork) -> bool:
        """Whether a task or call of this process has no reply."""
        task_id = task.spec.task_id
        if isinstance(task, ActorCall):
            return self.calls.client(task.spec.actor_id).knows(task_id)
        return isinstance(task, PendingTask) and task.first in self.leasing.tasks

    def run_again(self, task: PendingWork) -> None:
        """Run a finished task once more."""
        if task.spec.num_returns < 0:
            self.streams.reopen(task.spec.task_id, bool(task.spec.backpressure))
        if isinstance(task, PendingTask | ActorCall):
            self.submission.run_again(task)

    # --- under the baton --------------------

    def to_raylet(self, message: m.Message) -> bool:
        """Send it to the raylet of this node; False when that has ended."""
        return self.peers.to_raylet(message)

    def post(self, action: Callable[[], None]) -> None:
        """Have ``action`` done soon under the baton; from any thread."""
        self.reactor.post(action)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have ``action`` done under the baton, after this turn and a while; from any thread."""
        reactor = self.reactor
        reactor.post(lambda: reactor.call_later(seconds, action))

    def _free(self, object_ids: list[bytes], node_ids: list[bytes], maker: bytes) -> None:
        self.stored.tell()
        self.peers.to_raylet(om.FreeObjects(object_ids, node_ids, maker))

    def _turn(self) -> None:
        """Everything that other threads left for the holder of the baton."""
        if self.on_executor_turn is not None:  # which argument refs it keeps, a reply says
            self._count()
        if self.stored.unpins:
            self.stored.send_unpins()
        self.submission.take_new()
        if self.given_up is not None:
            self.give_up(self.given_up)
        self.edge.carry_out()
        if self.on_executor_turn is not None:
            self.on_executor_turn()

    def written(self) -> None:
        """What nobody waits for, when all that was said is on its way."""
        self.counts.count()
        self._count()

    def _count(self) -> None:
        """Count the refs that have come and died."""
        table = self.table
        if table.released or table.died or table.batches:
            emptied = table.has_emptied()
            self.counting.count_released()
            if emptied or table.has_emptied():
                self._gives_back.soon()

    def _shrink(self) -> None:
        for part in (self.table, self.calls, self.lineage):
            part.shrink()
        shrink(self.leasing.tasks)

    def give_up(self, error: Exception) -> None:
        """The cluster cannot be reached any more: all that waits fails, and all that comes."""
        self.given_up = error
        self.leasing.fail_all(error)
        self.calls.fail_all(error)
        self.edge.carry_out()
        self.table.complete_all(error_value(error))

    def _on_hello(self, connection: Connection, message: m.Hello) -> None:
        self.peers.introduced(connection, message.address)
        if not self.me.has_job:
            self.me.set_job(message.job)
            self.on_job(message.job)

    def _on_output(self, _peer: Connection, message: wm.OutputLines | wm.OutputDisplay) -> None:
        if self.on_output is not None:
            self.on_output(message)
