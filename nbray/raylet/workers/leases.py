"""Leases: who asked for a worker, who has one, and what is lent while a task blocks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from nbray.common.accelerators import as_key
from nbray.common.resources import fits, total_of
from nbray.raylet.exits import GROUP_REMOVED, OWNER_GONE, Exit
from nbray.raylet.nodes import NodeTable
from nbray.raylet.process import Handlers, Process
from nbray.raylet.workers.memory import Candidate
from nbray.raylet.workers.pool import PLAIN, Worker, WorkerPool
from nbray.raylet.workers.resource_set import Allocation, ResourceSet
from nbray.raylet.workers.scheduler import LeaseRequest, Scheduler
from nbray.runtime_env.setup import EnvError, Prepared
from nbray.scheduling.explain import infeasible_text
from nbray.scheduling.policy import Choice, Demand, Verdict
from nbray.wire import messages as m
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.records import NodeInfo
from nbray.wire.state_messages import WaitingShape
from nbray.wire.strategies import InGroup, OnNode, Shape

logger = logging.getLogger(__name__)

_OVERDUE_S = 1.0
_LONG_TASK_S = 2.0
_GROUP_GONE = Cause(CauseKind.GROUP_REMOVED, "its placement group was removed")


@dataclass(eq=False)
class Lease:
    """A worker that a submitter may use, and what is taken for it."""

    lease_id: int
    worker: Worker
    holder: Process
    taken: Allocation
    resources: dict[str, int]
    retriable: bool
    since: float = field(default_factory=time.monotonic)
    asked: float | None = None


@dataclass(eq=False)
class Wish:
    """Resources that somebody waits for: a lease request, or an actor that is to start.

    ``on_moved`` hears that another node serves it, or why none does; without it, it stays here.
    ``warn`` shows its driver why it waits.
    """

    demand: Demand
    on_granted: Callable[[Allocation], None]
    on_moved: Callable[[Choice], None] | None = None
    warn: Callable[[str], None] | None = None
    near: bytes = b""
    process: Process | None = None
    looked_up: bool = False
    backlog: int = 1
    since: float = field(default_factory=time.monotonic)


class LeaseManager:
    """Grants, spills, lends and takes back. Resources are given back exactly once.

    ``on_unknown_node`` looks for new nodes, and then calls what it is given. ``changed`` is set
    when the node's resources, or those of others by what was moved there, have changed.
    """

    def __init__(
        self, row: NodeInfo, scheduler: Scheduler, pool: WorkerPool, nodes: NodeTable
    ) -> None:
        self._row = row
        self._scheduler = scheduler
        self._pool = pool
        self._nodes = nodes
        self._leases: dict[int, Lease] = {}
        self._lease_of: dict[bytes, Lease] = {}
        self._wishes: dict[tuple[Process, int], Wish] = {}
        self._mourners: dict[bytes, Process] = {}
        self._preparing: dict[tuple[Process, int], asyncio.Task[None]] = {}
        self._next_lease = 1
        self.changed = asyncio.Event()
        self.on_unknown_node: Callable[[Callable[[], None]], None] = lambda then: then()
        self.on_unknown_group: Callable[[bytes], None] = lambda group_id: None

    def handlers(self) -> Handlers:
        """What submitters and workers ask and say of leases."""
        return {
            m.RequestLease: self.request,
            m.Backlog: self.note_backlog,
            m.ReturnLease: self.return_lease,
            m.CancelLeaseRequest: self.cancel,
            m.WorkerBlocked: self.lend,
            m.WorkerUnblocked: self.take_back,
            m.AskAssigned: self.assigned,
        }

    # --- requests --------------------

    def request(self, process: Process, message: m.RequestLease) -> None:
        """A submitter wants a worker; it is answered when there is one, here or elsewhere."""
        if message.runtime_env:
            task = asyncio.get_running_loop().create_task(self._request_in_env(process, message))
            self._preparing[(process, message.request_id)] = task
        else:
            self._request(process, message, PLAIN)

    async def _request_in_env(self, process: Process, message: m.RequestLease) -> None:
        """Set the environment up before resources are taken."""
        try:
            env = await self._pool.envs.prepare(message.runtime_env)
        except EnvError as error:
            cause = Cause(CauseKind.RUNTIME_ENV, str(error))
            process.send(m.LeaseRefused(message.request_id, cause))
            return
        finally:
            self._preparing.pop((process, message.request_id), None)
        try:
            self._request(process, message, env)
        except Exception as error:
            logger.exception("A lease was not requested")
            cause = Cause(CauseKind.FAULT, f"Its raylet failed: {error!r}")
            process.send(m.LeaseRefused(message.request_id, cause))

    def _request(self, process: Process, message: m.RequestLease, env: Prepared) -> None:
        key = (process, message.request_id)

        def granted(taken: Allocation) -> None:
            self._wishes.pop(key, None)

            def use(worker: Worker | None) -> None:
                self._grant(process, message, taken, worker)

            def refuse(cause: Cause) -> None:
                self.give_back(taken)
                process.send(m.LeaseRefused(message.request_id, cause))

            self._pool.want(
                message.job.job_id, use, env=env, refuse=refuse, resources=message.resources,
                devices=as_key(taken.device_ids()),
            )  # fmt: skip

        def moved(choice: Choice) -> None:
            self._wishes.pop(key, None)
            node = choice.node
            if node is None:
                assert choice.cause is not None
                process.send(m.LeaseRefused(message.request_id, choice.cause))
            else:
                process.send(
                    m.LeaseSpilled(message.request_id, node.node_id, node.host, node.frame_port)
                )

        demand = Demand(message.resources, message.strategy, message.selector)
        wish = Wish(
            demand, granted, moved, process.warn, message.near, process, backlog=message.backlog
        )  # fmt: skip
        self._wishes[key] = wish
        self.submit(wish, placed=message.spilled)

    def cancel(self, process: Process, message: m.CancelLeaseRequest) -> None:
        """A submitter does not want it any more; nothing happens when it crossed the grant."""
        request_id = message.request_id
        preparing = self._preparing.pop((process, request_id), None)
        if preparing is not None:
            preparing.cancel()  # the environment itself is set up all the same
        wish = self._wishes.get((process, request_id))
        if wish is not None and self.withdraw(wish):
            del self._wishes[(process, request_id)]

    def note_backlog(self, process: Process, message: m.Backlog) -> None:
        """A submitter tells for how many tasks its requests stand: the first of them says it."""
        tasks = message.tasks
        for request_id in message.request_ids:
            wish = self._wishes.get((process, request_id))
            if wish is not None:
                wish.backlog, tasks = tasks, 0

    def submit(self, wish: Wish, placed: bool = False) -> None:
        """Grant a wish now or later, or move it; ``placed``: another raylet or the GCS chose us."""
        request = LeaseRequest(wish, wish.demand, wish.on_moved is not None, wish.near)
        strays = isinstance(wish.demand.strategy, InGroup) and not self._scheduler.serves(
            wish.demand
        )
        if request.movable and (strays or not placed):
            choice = self._scheduler.place(request, self._nodes.others())
            if self._is_news_of_a_node(wish, choice):
                self.on_unknown_node(lambda: self.submit(wish))
                return
            if choice.node is not None or choice.verdict is Verdict.UNSCHEDULABLE:
                self._move(wish, choice)
                return
            if choice.verdict is Verdict.INFEASIBLE:
                self._warn(wish)
        self._scheduler.submit(request)
        if time.monotonic() - wish.since > _OVERDUE_S:  # an actor that waited elsewhere
            self._find_overdue(time.monotonic())
        self.schedule()
        if self._scheduler.waiting:
            self.reclaim()

    def reclaim(self) -> None:
        """Ask for idle leases back, since somebody waits for resources."""
        for holder in {lease.holder for lease in self._leases.values()}:
            holder.send(m.ReclaimLeases())

    def share(self, after_s: float) -> None:
        """Ask for the oldest leases back while others wait, so that nobody has a worker for ever.

        Both must have been so for ``after_s`` seconds: the lease held, and the request waiting.
        """
        now = time.monotonic()
        requests = [cast(Wish, request.key) for request in self._scheduler.requests()]
        waiting = [
            wish
            for wish in requests
            if now - wish.since > after_s and self._scheduler.serves(wish.demand)
        ]
        if self._scheduler.forget_room(now):
            self.schedule()
        self._find_overdue(now)
        lacking = self._scheduler.lacking()
        wanted: dict[Process, list[int]] = {}
        for lease in self._leases.values():  # in the order of their grants
            if not (waiting or lacking) or now - lease.since < after_s:
                break
            asked = any(name in lacking for name in lease.taken.in_use())
            for name, amount in lease.taken.in_use().items():
                if name in lacking:
                    lacking[name] -= amount
                    if lacking[name] <= 0:
                        del lacking[name]
            for wish in waiting:
                if wish.process is not lease.holder or wish.demand.resources != lease.resources:
                    waiting.remove(wish)
                    self._scheduler.advance(wish)
                    asked = True
                    break
            if asked:
                lease.asked = lease.asked or now
                wanted.setdefault(lease.holder, []).append(lease.lease_id)
        for holder, lease_ids in wanted.items():
            holder.send(m.ReclaimLeases(lease_ids))

    def _find_overdue(self, now: float) -> None:
        """Let no request be passed for ever that would fit once the tasks have made way.

        Where a long task or an actor has what it needs, keeping the rest for it would help nobody.
        """
        soon = total_of([self._row.available, self.returning()])
        for request in self._scheduler.requests():
            wish = cast(Wish, request.key)
            request.overdue = (
                now - wish.since > _OVERDUE_S
                and not isinstance(wish.demand.strategy, InGroup)
                and self._scheduler.serves(wish.demand)
                and fits(wish.demand.resources, soon)
            )

    def returning(self) -> dict[str, int]:
        """What tasks hold of the node that comes back soon when it is asked for."""
        now = time.monotonic()
        return total_of(
            lease.taken.in_use()
            for lease in self._leases.values()
            if lease.taken.source is self._scheduler.node
            and (lease.asked is None or now - lease.asked < _LONG_TASK_S)
        )

    def _is_news_of_a_node(self, wish: Wish, choice: Choice) -> bool:
        """Whether it names a node of which this raylet has not heard, once."""
        strategy = wish.demand.strategy
        if choice.verdict is not Verdict.UNSCHEDULABLE or not isinstance(strategy, OnNode):
            return False
        unknown = not self._nodes.knows(strategy.node_id) and not wish.looked_up
        wish.looked_up = True
        return unknown

    def _move(self, wish: Wish, choice: Choice) -> None:
        assert wish.on_moved is not None
        self.changed.set()
        wish.on_moved(choice)

    def withdraw(self, wish: Wish) -> bool:
        """Take a wish back; False when it is granted already."""
        return self._scheduler.cancel(wish)

    def schedule(self) -> None:
        """Grant what fits; to be called whenever resources may have become free."""
        for request, taken in self._scheduler.grant():
            self.changed.set()
            wish = cast(Wish, request.key)
            wish.on_granted(taken)

    def on_nodes_changed(self) -> None:
        """Move waiting requests to nodes that can serve them; called after every report."""
        if self._scheduler.waiting:
            moved, infeasible = self._scheduler.move(self._nodes.others())
            for request, choice in moved:
                self._move(cast(Wish, request.key), choice)
            for request in infeasible:
                self._warn(cast(Wish, request.key))

    def _warn(self, wish: Wish) -> None:
        """Tell the owner of a wish that no node can ever serve it."""
        strategy = wish.demand.strategy
        if isinstance(strategy, InGroup):
            self.on_unknown_group(strategy.group_id)
        elif wish.warn is not None:
            wish.warn(infeasible_text(wish.demand, [self._row, *self._nodes.others()]))

    def waiting(self) -> list[WaitingShape]:
        """What waits here, by shape, for the state API."""
        asked: dict[tuple[bool, Shape], list[Wish]] = {}
        for request in self._scheduler.requests():
            wish = cast(Wish, request.key)
            demand = wish.demand
            shape = Shape(tuple(sorted(demand.resources.items())), demand.strategy, demand.selector)
            asked.setdefault((wish.on_moved is None, shape), []).append(wish)
        now = time.monotonic()
        return [
            WaitingShape(
                dict(shape.resources),
                sum(wish.backlog for wish in wishes),
                now - min(wish.since for wish in wishes),
                for_actor, shape.strategy, shape.selector,
            )
            for (for_actor, shape), wishes in asked.items()
            if any(wish.backlog for wish in wishes)
        ]  # fmt: skip

    # --- leases --------------------

    def _grant(
        self, process: Process, request: m.RequestLease, taken: Allocation, worker: Worker | None
    ) -> None:
        if worker is None or process.closed or taken.source.retired:
            if worker is not None:
                self._pool.give_back(worker)
            self.give_back(taken)
            if taken.source.retired:
                process.send(m.LeaseRefused(request.request_id, _GROUP_GONE))
            return
        assert worker.address is not None
        lease = Lease(
            self._next_lease, worker, process, taken, request.resources, request.retriable
        )
        self._next_lease += 1
        self._leases[lease.lease_id] = lease
        self._lease_of[worker.worker_id] = lease
        process.send(
            m.LeaseGranted(request.request_id, lease.lease_id, worker.address, taken.device_ids())
        )

    def return_lease(self, process: Process, message: m.ReturnLease) -> None:
        """A submitter gives a worker back; one whose connection ``broke`` is ended."""
        lease = self._leases.get(message.lease_id)
        if lease is not None and lease.holder is process:
            if message.broken and lease.worker.worker_id in self._pool.workers:
                self._mourners[lease.worker.worker_id] = process
            lease.worker.worn = lease.worker.worn or message.worn
            self._end(lease, message.broken)

    def _end(self, lease: Lease, broken: bool, why: Exit | None = None) -> None:
        del self._leases[lease.lease_id]
        del self._lease_of[lease.worker.worker_id]
        if broken:
            self._pool.kill(lease.worker, why)
        else:
            self._pool.give_back(lease.worker)
        self.give_back(lease.taken)

    def give_back(self, taken: Allocation) -> None:
        """Resources are free again; whoever waits for them is served."""
        taken.free()
        self.changed.set()
        self.schedule()

    def end_in(self, bundles: list[ResourceSet]) -> None:
        """End what runs in bundles that were released."""
        for lease in list(self._leases.values()):
            if lease.taken.source in bundles:
                self._pool.kill(lease.worker, GROUP_REMOVED)

    def refuse_group(self, group_id: bytes) -> None:
        """A placement group was removed: what waits for it fails."""
        for request in self._scheduler.requests():
            strategy = request.demand.strategy
            if isinstance(strategy, InGroup) and strategy.group_id == group_id:
                wish = cast(Wish, request.key)
                if wish.on_moved is not None and self.withdraw(wish):
                    wish.on_moved(Choice(Verdict.UNSCHEDULABLE, None, _GROUP_GONE))

    def process_gone(self, process: Process) -> None:
        """Drop a submitter's requests and end its leases: their work has no owner any more."""
        for key in [key for key in self._preparing if key[0] is process]:
            self._preparing.pop(key).cancel()
        for key in [key for key in self._wishes if key[0] is process]:
            self.withdraw(self._wishes.pop(key))
        for lease in [one for one in self._leases.values() if one.holder is process]:
            self._end(lease, broken=True, why=OWNER_GONE)
        self._mourners = {w: p for w, p in self._mourners.items() if p is not process}

    def worker_gone(self, worker: Worker, cause: Cause) -> None:
        """A worker ended: so does its lease, and who had it hears the cause."""
        lease = self._lease_of.get(worker.worker_id)
        mourner = self._mourners.pop(worker.worker_id, None)
        if lease is not None:
            mourner = lease.holder
            self._end(lease, broken=True)
        if mourner is not None:
            mourner.send(m.WorkerDied(worker.worker_id, cause))

    def candidates(self) -> list[Candidate]:
        """Who may be ended when memory runs out."""
        return [
            Candidate(lease.worker.worker_id, lease.holder, lease.retriable, lease.since)
            for lease in self._leases.values()
        ]

    # --- blocked tasks --------------------

    def assigned(self, process: Process, message: m.AskAssigned) -> None:
        """A worker asks what its lease holds, in units of 1/10000; nothing when it has none."""
        lease = self._lease_of.get(process.worker_id)
        process.send(m.Assigned(message.request_id, {} if lease is None else lease.resources))

    def lend(self, process: Process, _message: m.WorkerBlocked | None = None) -> None:
        """The worker's task blocks: its CPUs may be used by others meanwhile."""
        lease = self._lease_of.get(process.worker_id)
        if lease is not None:
            lease.taken.lend()
            self.schedule()

    def take_back(self, process: Process, _message: m.WorkerUnblocked | None = None) -> None:
        """It goes on, also when that makes the node's CPUs negative for a while."""
        lease = self._lease_of.get(process.worker_id)
        if lease is not None:
            lease.taken.take_back()
