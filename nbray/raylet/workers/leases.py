"""Leases of this node: messages of submitters in, decisions of the scheduler carried out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, cast

from nbray.common.accelerators import DeviceIds, as_key
from nbray.common.background import Background
from nbray.raylet.exits import GROUP_REMOVED, OWNER_GONE, Exit
from nbray.raylet.process import Handlers, Process
from nbray.raylet.workers.lease import Event, LeaseLife, State
from nbray.raylet.workers.memory import Candidate
from nbray.raylet.workers.pending import (
    Decision,
    Granted,
    Infeasible,
    Moved,
    PendingRequest,
    Reclaim,
    UnknownNode,
)
from nbray.raylet.workers.resource_set import Allocation, ResourceSet
from nbray.raylet.workers.scheduler import GROUP_GONE, Nodes, Scheduler
from nbray.raylet.workers.silence import UnusedLeases
from nbray.raylet.workers.worker import Worker
from nbray.runtime_env.setup import PLAIN, EnvError, EnvManager, Prepared
from nbray.scheduling.explain import infeasible_text
from nbray.scheduling.policy import Choice, Demand
from nbray.wire import messages as m
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.lease_messages import AskAssigned, AskIdle, Assigned, WorkerIdle
from nbray.wire.records import NodeInfo
from nbray.wire.state_messages import WaitingShape
from nbray.wire.strategies import InGroup

logger = logging.getLogger(__name__)


class Workers(Protocol):
    """The worker pool, as leases need it."""

    def want(
        self,
        job_id: bytes,
        use: Callable[[Worker | None], None],
        refuse: Callable[[Cause], None],
        *,
        env: Prepared,
        resources: Mapping[str, int],
        devices: DeviceIds,
    ) -> Callable[[], bool]: ...

    def give_back(self, worker_id: bytes, worn: bool = False) -> None: ...

    def end(self, worker_id: bytes, why: Exit | None) -> None: ...

    def lives(self, worker_id: bytes) -> bool: ...

    def tell(self, worker_id: bytes, message: m.Message) -> None: ...


class LeaseManager:
    """Grants, spills, lends and takes back. Resources are given back exactly once.

    Args:
        row: this node's row in the node table.
        scheduler: decides.
        workers: gives and takes workers.
        envs: sets runtime environments up.
        nodes: the other nodes.
        refresh: asks the GCS for all nodes anew.
        look_for_group: is told of a placement group that no known node has.
        grows: whether an autoscaler may start nodes.
        silence_s: how long a submitter may leave a worker idle for which others wait.

    Attributes:
        changed: set when the node's resources, or those of others by what was moved there, have
            changed.
        contended: set while requests wait and leases are held: `share` is to be called.
    """

    def __init__(
        self,
        row: NodeInfo,
        scheduler: Scheduler,
        workers: Workers,
        envs: EnvManager,
        nodes: Nodes,
        refresh: Callable[[], Awaitable[None]],
        look_for_group: Callable[[bytes], None],
        grows: Callable[[], bool],
        silence_s: float,
    ) -> None:
        self._row = row
        self._grows = grows
        self._scheduler = scheduler
        self._workers = workers
        self._envs = envs
        self._nodes = nodes
        self._refresh = refresh
        self._look_for_group = look_for_group
        self._requested: dict[tuple[Process, int], LeaseLife] = {}
        self._lease_of: dict[bytes, LeaseLife] = {}
        self._death_watchers: dict[bytes, Process] = {}
        self._next_lease = 1
        self._unused = UnusedLeases(silence_s)
        self._background = Background()
        self.changed = asyncio.Event()
        self.contended = asyncio.Event()

    def handlers(self) -> Handlers:
        """What submitters and workers ask and say of leases."""
        return {
            m.RequestLease: self.request,
            m.Backlog: self.note_backlog,
            m.ReturnLease: self.return_lease,
            m.CancelLeaseRequest: self.cancel,
            m.WorkerBlocked: self.lend,
            m.WorkerUnblocked: self.take_back,
            AskAssigned: self.assigned,
            WorkerIdle: self.worker_answers,
        }

    # --- from a request to a lease --------------------

    def request(self, process: Process, message: m.RequestLease) -> None:
        """A submitter wants a worker; it is answered when there is one, here or elsewhere."""
        lease = self._requested[(process, message.request_id)] = LeaseLife(process, message)
        if message.runtime_env:
            preparing = asyncio.get_running_loop().create_task(self._prepare(lease))
            lease.give_up = preparing.cancel  # the environment itself is set up all the same
        else:
            self._queue(lease, PLAIN)

    async def _prepare(self, lease: LeaseLife) -> None:
        """Set the environment up before resources are taken."""
        try:
            env = await self._envs.prepare(lease.request.runtime_env)
        except EnvError as error:
            self._refuse(lease, Cause(CauseKind.RUNTIME_ENV, str(error)))
            return
        try:
            self._queue(lease, env)
        except Exception as error:
            logger.exception("A lease was not requested")
            self._refuse(lease, Cause(CauseKind.FAULT, f"Its raylet failed: {error!r}"))

    def _queue(self, lease: LeaseLife, env: Prepared) -> None:
        request, process = lease.request, cast(Process, lease.holder)
        lease.pending = pending = PendingRequest(
            process, Demand(request.resources, request.strategy, request.selector),
            partial(self._granted, lease, env), partial(self._moved, lease),
            partial(process.warn, origin=request.origin), request.near, request.backlog,
            lease.queue, time.monotonic(),
        )  # fmt: skip
        lease.give_up = partial(self._scheduler.withdraw, pending)
        lease.move(Event.QUEUED, time.time())
        self.submit(pending, placed=request.spilled)

    def _granted(self, lease: LeaseLife, env: Prepared, taken: Allocation) -> None:
        lease.move(Event.GRANTED, time.time())
        lease.pending, lease.taken = None, taken
        request = lease.request
        try:
            lease.give_up = self._workers.want(
                request.job.job_id, partial(self._use, lease), partial(self._refuse, lease),
                env=env, resources=request.resources, devices=as_key(taken.device_ids()),
            )  # fmt: skip
        except Exception as error:  # its submitter hears of it, and others get what it was given
            if lease.state is State.STARTING:
                cause = Cause(CauseKind.FAULT, f"Its raylet failed: {error!r}")
                self._refuse(lease, cause)
            raise

    def _use(self, lease: LeaseLife, worker: Worker | None) -> None:
        """A worker is there; or none, since the job is over."""
        taken = lease.taken
        assert taken is not None
        if worker is None or taken.source.retired:
            if worker is not None:
                self._workers.give_back(worker.worker_id)
            if taken.source.retired:
                self._refuse(lease, GROUP_GONE)
            else:  # nobody waits for an answer
                self._over(lease, Event.REFUSED, "its job is over")
            return
        assert worker.address is not None
        lease.move(Event.LEASED, time.time(), f"worker pid {worker.pid}")
        request_id = lease.request.request_id
        del self._requested[(cast(Process, lease.holder), request_id)]
        lease.lease_id, lease.worker_id = self._next_lease, worker.worker_id
        lease.since = time.monotonic()
        self._next_lease += 1
        self._scheduler.leases[lease.lease_id] = self._lease_of[worker.worker_id] = lease
        if self._scheduler.waiting:
            self.contended.set()
        lease.wanted = self._scheduler.wanted(lease)
        self._carry_out(self._scheduler.help())
        devices = taken.device_ids()
        lease.holder.send(
            m.LeaseGranted(request_id, lease.lease_id, worker.address, devices, lease.wanted)
        )

    def _moved(self, lease: LeaseLife, choice: Choice) -> None:
        """Another node serves it, or none may."""
        node = choice.node
        if node is None:
            assert choice.cause is not None
            self._refuse(lease, choice.cause)
            return
        request_id = lease.request.request_id
        self._over(lease, Event.MOVED, f"node {node.node_id.hex()[:8]}")
        lease.holder.send(m.LeaseSpilled(request_id, node.node_id, node.host, node.frame_port))

    def _refuse(self, lease: LeaseLife, cause: Cause) -> None:
        """There is no lease."""
        self._over(lease, Event.REFUSED, cause.text)
        lease.holder.send(m.LeaseRefused(lease.request.request_id, cause))

    def _over(self, lease: LeaseLife, event: Event, detail: str = "") -> None:
        """A lease ends before it is held."""
        lease.move(event, time.time(), detail)
        del self._requested[(cast(Process, lease.holder), lease.request.request_id)]
        if lease.taken is not None:
            self.give_back(lease.taken)

    def cancel(self, process: Process, message: m.CancelLeaseRequest) -> None:
        """A submitter does not want it any more; nothing happens when it crossed the grant."""
        lease = self._requested.get((process, message.request_id))
        if lease is not None:
            lease.give_up()
            self._over(lease, Event.WITHDRAWN)

    def note_backlog(self, process: Process, message: m.Backlog) -> None:
        """A submitter reports for how many tasks its requests stand: the first of them says it."""
        tasks = message.tasks
        for request_id in message.request_ids:
            lease = self._requested.get((process, request_id))
            if lease is not None and lease.pending is not None:
                lease.pending.backlog, tasks = tasks, 0

    # --- what the scheduler decides --------------------

    def submit(self, request: PendingRequest, placed: bool = False) -> None:
        """Grant a request now or later, or move it; ``placed``: somebody chose this node."""
        now = time.monotonic()
        self._carry_out(self._scheduler.submit(request, self._nodes, now, placed))
        if self._scheduler.waiting:
            self.contended.set()

    def withdraw(self, request: PendingRequest) -> bool:
        """Take a request back; False when it is granted already."""
        return self._scheduler.withdraw(request)

    def schedule(self) -> None:
        """Grant what fits; to be called whenever resources may have become free."""
        self._carry_out(self._scheduler.grant())
        self._carry_out(self._scheduler.help())

    def give_back(self, taken: Allocation) -> None:
        """Resources are free again; whoever waits for them is served."""
        taken.free()
        self.changed.set()
        self.schedule()

    def bundles_changed(self, lacking: bool) -> None:
        """Bundles came or went; ``lacking``: some that are wanted found no room."""
        self.changed.set()
        self.schedule()
        if lacking:
            self._carry_out(self._scheduler.reclaim(list(self._scheduler.leases.values())))

    def share(self, after_s: float) -> None:
        """Ask for leases that were held for so long while others waited as long."""
        now = time.monotonic()
        self._carry_out(self._scheduler.share(now, after_s))
        if self._scheduler.waiting or self._scheduler.lacking():
            for lease in self._unused.due(self._lease_of.values(), now):
                self._workers.tell(lease.worker_id, AskIdle(lease.lease_id))
        if not (self._scheduler.waiting and self._lease_of):
            self.contended.clear()

    def on_nodes_changed(self) -> None:
        """Move waiting requests to nodes that can serve them; called after every report."""
        if self._scheduler.waiting:
            self._carry_out(self._scheduler.move(self._nodes.others()))

    def refuse_group(self, group_id: bytes) -> None:
        """A placement group was removed: what waits for it fails."""
        self._carry_out(self._scheduler.refuse_group(group_id))

    def _carry_out(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            try:
                self._act(decision)
            except Exception:  # the others have been taken out of the queue, too
                logger.exception("A decision was not carried out: %s", type(decision).__name__)

    def _act(self, decision: Decision) -> None:
        match decision:
            case Granted(request, taken):
                self.changed.set()
                request.on_granted(taken)
            case Moved(request, choice):
                assert request.on_moved is not None
                self.changed.set()
                request.on_moved(choice)
            case Infeasible(request):
                self._warn(request)
            case UnknownNode(request):
                self._background.start(self._look_up(request))
            case Reclaim(holder, lease_ids):
                for lease_id in lease_ids:
                    self._scheduler.leases[lease_id].move(Event.RECLAIMED, time.time())
                holder.send(m.ReclaimLeases(lease_ids))

    def _warn(self, request: PendingRequest) -> None:
        """Show the driver of a request that no node can ever serve it."""
        strategy = request.demand.strategy
        if isinstance(strategy, InGroup):
            self._look_for_group(strategy.group_id)
        elif request.warn is not None:
            rows = [self._row, *self._nodes.others()]
            request.warn(infeasible_text(request.demand, rows, grows=self._grows()))

    async def _look_up(self, request: PendingRequest) -> None:
        await self._refresh()
        self._carry_out(self._scheduler.looked_up(request, self._nodes, time.monotonic()))

    def returning(self) -> dict[str, int]:
        """What tasks hold of the node that comes back soon when it is asked for."""
        return self._scheduler.returning(time.monotonic())

    def waiting(self) -> list[WaitingShape]:
        """What waits here, by shape, for the state API."""
        return self._scheduler.shapes(time.monotonic())

    # --- the ends of leases --------------------

    def return_lease(self, process: Process, message: m.ReturnLease) -> None:
        """A submitter gives a worker back; one whose connection ``broke`` is ended."""
        lease = self._scheduler.leases.get(message.lease_id)
        if lease is None or lease.holder is not process:
            return
        if message.broken:
            if self._workers.lives(lease.worker_id):
                self._death_watchers[lease.worker_id] = process
            self._end(lease, Event.RETURNED, partial(self._workers.end, lease.worker_id, None))
        else:
            back = partial(self._workers.give_back, lease.worker_id, message.worn)
            self._end(lease, Event.RETURNED, back)

    def _end(
        self, lease: LeaseLife, event: Event, let_go: Callable[[], object], detail: str = ""
    ) -> None:
        """A lease ends; its worker is let go first, so that the next one finds it idle."""
        lease.move(event, time.time(), detail)
        del self._scheduler.leases[lease.lease_id]
        del self._lease_of[lease.worker_id]
        let_go()
        assert lease.taken is not None
        self.give_back(lease.taken)

    def worker_answers(self, process: Process, message: WorkerIdle) -> None:
        """A worker that others wait for runs something, or its holder leaves it idle."""
        lease = self._lease_of.get(process.worker_id)
        if lease is None or lease.lease_id != message.lease_id:
            return
        if not self._unused.answered(lease, message.idle, message.begun, time.monotonic()):
            return
        self.take_from_silent(lease)

    def take_from_silent(self, lease: LeaseLife) -> None:
        """The holder of a lease does not answer: others get what it leaves idle."""
        holder = cast(Process, lease.holder)
        logger.warning("%s does not answer: others get its workers.", holder.connection.peer)
        holder.silent = True
        holder.send(m.ReclaimLeases([lease.lease_id]))  # it pushes no more when it goes on
        self._scheduler.set_aside(holder)
        back = partial(self._workers.give_back, lease.worker_id)
        self._end(lease, Event.TAKEN_BACK, back, "its holder does not answer")

    def speaks(self, process: Process) -> None:
        """A submitter that did not answer does so again: what it waits for is served as before."""
        process.silent = False
        self._carry_out(self._scheduler.bring_back(process))
        if self._scheduler.waiting:
            self.contended.set()

    def end_in(self, bundles: list[ResourceSet]) -> None:
        """End what runs in bundles that were released."""
        for lease in list(self._lease_of.values()):
            if lease.taken is not None and lease.taken.source in bundles:
                self._workers.end(lease.worker_id, GROUP_REMOVED)

    def process_gone(self, process: Process) -> None:
        """Drop a submitter's requests and end its leases: their work has no owner any more."""
        for lease in [x for x in self._requested.values() if x.holder is process]:
            lease.give_up()
            self._over(lease, Event.WITHDRAWN, "its submitter has gone")
        self._carry_out(self._scheduler.bring_back(process))  # of which nothing is left
        for lease in [x for x in self._lease_of.values() if x.holder is process]:
            end = partial(self._workers.end, lease.worker_id, OWNER_GONE)
            self._end(lease, Event.LOST, end, "its submitter has gone")
        watchers = self._death_watchers.items()
        self._death_watchers = {w: p for w, p in watchers if p is not process}

    def worker_gone(self, worker: Worker, cause: Cause) -> None:
        """A worker ended: so does its lease, and who had it is told the cause."""
        lease = self._lease_of.get(worker.worker_id)
        watcher: Process | None = self._death_watchers.pop(worker.worker_id, None)
        if lease is not None:
            watcher = cast(Process, lease.holder)
            self._end(lease, Event.LOST, lambda: None, str(cause))
        if watcher is not None:
            watcher.send(m.WorkerDied(worker.worker_id, cause))

    # --- the node drains, or might --------------------

    @property
    def granted_ever(self) -> int:
        """How many leases were granted since the node began."""
        return self._next_lease - 1

    def in_use(self) -> int:
        """How many workers are leased, or are being started for a lease."""
        starting = sum(lease.taken is not None for lease in self._requested.values())
        return len(self._lease_of) + starting

    def recall(self) -> None:
        """Ask for all leases; what runs goes on, what its submitter has not pushed goes elsewhere.

        What waits here is to be served by others.
        """
        held: dict[Process, list[int]] = {}
        for lease in self._lease_of.values():
            held.setdefault(cast(Process, lease.holder), []).append(lease.lease_id)
        self._carry_out([Reclaim(holder, ids) for holder, ids in held.items()])
        self.on_nodes_changed()

    def candidates(self) -> list[Candidate]:
        """Who may be ended when memory runs out."""
        return [
            Candidate(
                lease.worker_id, cast(Process, lease.holder), lease.request.retriable, lease.since
            )
            for lease in self._lease_of.values()
        ]

    # --- blocked tasks --------------------

    def _taken_by(self, process: Process) -> Allocation | None:
        lease = self._lease_of.get(process.worker_id)
        return None if lease is None else lease.taken

    def assigned(self, process: Process, message: AskAssigned) -> None:
        """A worker asks what its lease holds, in units of 1/10000; nothing when it has none."""
        lease = self._lease_of.get(process.worker_id)
        resources = {} if lease is None else lease.request.resources
        process.send(Assigned(message.request_id, resources))

    def lend(self, process: Process, _message: m.WorkerBlocked) -> None:
        """The worker's task blocks: its CPUs may be used by others meanwhile."""
        taken = self._taken_by(process)
        if taken is not None:
            taken.lend()
            self.schedule()

    def take_back(self, process: Process, _message: m.WorkerUnblocked) -> None:
        """It goes on, also when that makes the node's CPUs negative for a while."""
        taken = self._taken_by(process)
        if taken is not None:
            taken.take_back()
