"""The edge of the submitting and owning side: messages come in, decisions are carried out.

It is the one place there that knows connections, the time, and what a message means to whom. The
machines (`submit`, `own`) name peers by their ids; what they have decided waits in `decisions`, in
order, and is carried out at the end of a turn, before anything is written to a socket.

The end of a process is told in one order, for each step relies on those before it:

1. what was decided before is carried out, so that no push follows the end of its worker;
2. who holds its objects and who owned ours (`borrowing`): a value that died with its owner is an
   error by then, which tasks that wait for it take along;
3. what it made and could not tell of (`locations`);
4. its leases (`leasing`), whose tasks run again; then its calls (`calls`).

Of a raylet, causes of deaths are given up first (`leasing`), then its lease requests; when it is
that of this node, the readers of its store follow, and whoever runs this process.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from nbray.common.ids import FIRST
from nbray.core_worker import decisions as d
from nbray.core_worker.cancelling import Cancelling
from nbray.core_worker.dependencies import Dependencies
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.endings import Endings
from nbray.core_worker.own.locations import Locations
from nbray.core_worker.own.streams import Streams
from nbray.core_worker.peers import Peers
from nbray.core_worker.submit.calls import ActorCalls
from nbray.core_worker.submit.groups import Groups
from nbray.core_worker.submit.leasing import Leasing
from nbray.core_worker.tasks import Pending
from nbray.core_worker.tell.held_objects import HeldObjects
from nbray.core_worker.tell.stacks import StackTeller
from nbray.core_worker.tell.task_counts import TaskCounts
from nbray.core_worker.tell.task_events import LONG_S, TaskEventLog
from nbray.core_worker.values.stored import StoredValues
from nbray.exceptions import TaskCancelledError
from nbray.wire import group_messages as gm
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire import watching_messages as wm
from nbray.wire.connection import Connection
from nbray.wire.frames import UnsendableError
from nbray.wire.lease_messages import Assigned
from nbray.wire.records import Address, TaskSpec

logger = logging.getLogger(__name__)


class Parts(Protocol):
    """The parts of a process that the edge joins (`core.CoreWorker`)."""

    me: Identity
    peers: Peers
    decisions: deque[Any]
    leasing: Leasing
    calls: ActorCalls
    group_states: Groups
    borrowing: Borrowing
    locations: Locations
    streams: Streams
    endings: Endings
    dependencies: Dependencies
    cancelling: Cancelling
    stored: StoredValues
    counts: TaskCounts
    events: TaskEventLog
    stacks: StackTeller
    held: HeldObjects


class Edge:
    """Joins the machines of one process to its connections. All of it runs under the baton.

    Attributes:
        on_closed: those that run here are notified of every connection that has ended.
        on_raylet_lost: whoever runs this process is told of the end of its raylet.
    """

    def __init__(self, parts: Parts) -> None:
        self._peers = parts.peers
        self._decisions = parts.decisions
        self._me = parts.me
        self._leasing = parts.leasing
        self._calls = parts.calls
        self._borrowing = parts.borrowing
        self._locations = parts.locations
        self._endings = parts.endings
        self._dependencies = parts.dependencies
        self._stored = parts.stored
        self._counts = parts.counts
        self._events = parts.events
        self.on_closed: list[Callable[[Connection], None]] = []
        self.on_raylet_lost: Callable[[], None] = lambda: None
        self._acts: dict[type, Callable[[Any], None]] = {
            d.Push: self._push,
            d.PushCalls: self._push_calls,
            d.AskLease: self._ask_lease,
            d.ToRaylet: self._to_raylet,
            d.ToWorker: lambda told: self._peers.answer(told.worker_id, told.message),
            d.Connect: self._connect,
            d.Failed: lambda failed: self.fail(failed.spec, failed.error),
            d.AttemptFailed: lambda failed: self._events.failed(
                failed.spec, failed.error, failed.attempt
            ),
            d.AttemptRaised: lambda raised: self._endings.forget_attempt(
                raised.spec, raised.worker_id, raised.done
            ),
            d.SeekArguments: lambda sought: self._dependencies.find(sought.task, sought.tried),
            d.WakeAfter: self._wake_after,
        }
        self._take_messages(parts)
        self._peers.ends = self

    # --- messages come in --------------------

    def _take_messages(self, parts: Parts) -> None:
        leasing, calls, borrowing = parts.leasing, parts.calls, parts.borrowing
        replied = parts.peers.replied
        self._peers.handlers.update(
            {
                m.TaskDone: self._on_done,
                m.TasksReturned: self._on_returned,
                m.LeaseGranted: lambda c, message: leasing.granted(
                    _node_of(c), message, time.monotonic()
                ),
                m.LeaseSpilled: lambda _, message: leasing.spilled(message),
                m.LeaseRefused: lambda _, message: leasing.refused(message),
                m.ReclaimLeases: lambda c, message: leasing.reclaimed(_node_of(c), message),
                m.WorkerDied: lambda _, message: leasing.worker_died(message),
                m.ActorState: lambda _, message: calls.told(message, time.monotonic()),
                m.ActorRegistered: lambda _, reply: replied(("actor", reply.actor_id), reply),
                gm.GroupState: lambda _, message: self._on_group(parts.group_states, message),
                m.GeneratorItem: lambda c, message: parts.streams.on_item(_process(c), message),
                m.HandoverDone: lambda _, message: borrowing.on_handover_done(message.task_id),
                m.CancelObject: lambda _, message: parts.cancelling.asked(message),
                m.GcsReply: lambda _, reply: replied(("gcs", reply.request_id), reply),
                Assigned: lambda _, reply: replied(("assigned", reply.request_id), reply),
                m.DriverRegistered: lambda _, reply: replied("registered", reply),
                m.WorkerRegistered: lambda _, reply: replied("registered", reply),
                om.RequestValue: lambda c, message: borrowing.serve_value(_process(c), message),
                om.ValueReady: lambda _, message: borrowing.on_value(message),
                om.AddBorrower: lambda c, message: borrowing.on_add_borrower(_process(c), message),
                om.BorrowerAdded: lambda _, reply: replied(reply.request_id, reply),
                om.RemoveBorrower: lambda _, message: borrowing.on_remove_borrower(message),
                om.CopiesChanged: self._on_copies_changed,
                om.RequestLocations: lambda c, message: parts.locations.serve(_process(c), message),
                om.Locations: lambda _, reply: replied(reply.request_id, reply),
                om.ObjectCreated: lambda _, reply: replied(("create", reply.object_id), reply),
                om.ObjectPinned: lambda _, reply: parts.stored.on_pinned(reply),
                om.BufferLent: lambda _, message: parts.stored.room.lent(message),
                om.ReclaimBuffer: lambda _, message: parts.stored.room.reclaim(),
                om.TellObjects: lambda c, message: c.send(parts.held.told(message)),
                wm.TellTasks: lambda _, message: parts.events.on_tell(message),
                wm.TellStacks: lambda _, message: parts.stacks.on_tell(message),
            }
        )

    def _on_done(self, connection: Connection, message: m.TaskDone) -> None:
        """A reply: the hot path of tasks and calls."""
        peer = connection.state
        worker_id = peer.worker_id if peer is not None else b""
        task: Pending | None
        pending = self._leasing.tasks.get(message.task_id + FIRST)
        if pending is not None:
            task = self._leasing.done(pending, worker_id, message, time.monotonic())
        else:
            task = self._calls.done(worker_id, message)
        if task is None:
            return
        values = message.values
        failed = message.retry or (bool(values) and values[-1].is_error)
        self._counts.ended(task.spec, failed, message.cancelled)
        if message.seconds >= LONG_S:
            self._events.finished(task)
        self._endings.finish(task, worker_id, message)

    def _on_returned(self, connection: Connection, message: m.TasksReturned) -> None:
        connection.known_functions.difference_update(message.forgotten)
        self._leasing.returned(message, time.monotonic())

    def _on_group(self, groups: Groups, message: gm.GroupState) -> None:
        self._peers.replied(("group", message.group_id), message)
        groups.told(message)

    def _on_copies_changed(self, _raylet: Connection, message: om.CopiesChanged) -> None:
        maker = self._peers.find(message.maker)
        self._locations.on_copies_changed(message, maker is not None and not maker.closed)

    # --- decisions are carried out --------------------

    def carry_out(self) -> None:
        """Carry out what was decided, and what is decided on that, until there is nothing."""
        decisions, acts = self._decisions, self._acts
        while True:
            if self._leasing.dirty:
                self._leasing.dispatch()
            if not decisions:
                return
            while decisions:
                decision = decisions.popleft()
                try:
                    acts[type(decision)](decision)
                except Exception:
                    logger.exception("A %s was not carried out.", type(decision).__name__)

    def _connect(self, wanted: d.Connect) -> None:
        self._peers.connect(wanted.worker)

    def _push(self, push: d.Push) -> None:
        connection = self._peers.find(push.worker.worker_id)
        if connection is None:
            return  # it has ended, which is told next
        known, devices, threads = connection.known_functions, push.devices, push.threads
        for task in push.tasks:
            task.built = spec = task.built or task.build()
            function_id = spec.function_id
            function = None if function_id in known else task.burst.function.data
            try:
                connection.send(m.PushTask(spec, function, devices, threads))
            except UnsendableError as error:
                self._leasing.unsendable(task, error)
            else:
                known.add(function_id)

    def _push_calls(self, push: d.PushCalls) -> None:
        connection = self._peers.find(push.worker.worker_id)
        if connection is None:
            return
        for call in push.calls:
            try:
                connection.send(m.PushTask(call.spec))
            except UnsendableError as error:
                self._calls.unsendable(call, push.worker.worker_id, error)

    def _ask_lease(self, ask: d.AskLease) -> None:
        raylet = self._peers.raylet
        if ask.host:
            raylet = self._peers.raylet_at(ask.node_id, ask.host, ask.port)
        try:
            raylet.send(ask.request)
        except UnsendableError as error:
            self._leasing.request_failed(ask.request.request_id, error)

    def _to_raylet(self, told: d.ToRaylet) -> None:
        raylet = self._peers.raylet_of(told.node_id)
        if raylet is not None:
            raylet.send(told.message)

    def _wake_after(self, wake: d.WakeAfter) -> None:
        self._peers.reactor.call_later(wake.seconds, lambda: wake.wake(time.monotonic()))

    def fail(self, spec: TaskSpec, error: Exception) -> None:
        """A task of this process ends with ``error``, which no worker has told."""
        self._counts.ended(spec, True, isinstance(error, TaskCancelledError))
        self._events.failed(spec, error)
        self._endings.fail(spec, error)

    # --- peers end --------------------

    def process_gone(self, worker_id: bytes, connection: Connection) -> None:
        """See the head of this module."""
        self.carry_out()
        self._borrowing.process_gone(worker_id)
        self._locations.process_gone(worker_id)
        self._leasing.worker_gone(worker_id, connection.established)
        self._calls.worker_gone(worker_id, connection.peer_ended, time.monotonic())

    def raylet_gone(self, node_id: bytes) -> None:
        """See the head of this module."""
        self.carry_out()
        self._leasing.raylet_gone(node_id)

    def connection_closed(self, connection: Connection) -> None:
        """Any connection has ended; that of this node's raylet is the end of a cluster here."""
        if connection is self._peers.raylet:
            self._stored.raylet_gone()
            self.on_raylet_lost()
        for told in self.on_closed:
            told(connection)

    def node_died(self, node_id: bytes) -> None:
        """A node has ended: what its copies leave, and tasks whose arguments were there."""
        any_lost, new_primaries = self._locations.node_died(node_id)
        if any_lost:
            for task in self._leasing.withdraw(self._dependencies.is_bereft):
                self._dependencies.resolve_again(task)
        for heir, object_ids in new_primaries.items():
            self._peers.to_raylet(om.KeepCopies(object_ids, heir))


def _process(connection: Connection) -> bytes:
    peer = connection.state
    return peer.worker_id if isinstance(peer, Address) else b""


def _node_of(raylet: Connection) -> bytes:
    node_id: bytes = raylet.state.node_id
    return node_id
