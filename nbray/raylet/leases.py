"""Leases: who asked for a worker, who has one, and what is lent while a task blocks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import cast

from nbray.common.infeasible import infeasible_text
from nbray.raylet.memory_monitor import Candidate
from nbray.raylet.nodes import NodeTable
from nbray.raylet.scheduler import LeaseRequest, Scheduler
from nbray.raylet.worker_pool import PLAIN, Worker, WorkerPool
from nbray.runtime_env.setup import EnvError, Prepared
from nbray.wire import messages as m
from nbray.wire.aio import FrameConnection
from nbray.wire.state_messages import WaitingShape

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Lease:
    """A worker that a submitter may use, and what is taken for it."""

    lease_id: int
    worker: Worker
    holder: Process
    resources: dict[str, int]
    retriable: bool
    since: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Process:
    """What the raylet keeps of one connection.

    A submitter of another node never registers: it has leases here, and no ``worker_id``.
    """

    connection: FrameConnection
    worker_id: bytes = b""
    job_id: bytes = b""
    is_driver: bool = False
    worker: Worker | None = None
    leases: dict[int, Lease] = field(default_factory=dict)
    closed: bool = False

    def send(self, message: m.Message) -> None:
        """Queue a message; dropped when the process has gone."""
        if not self.closed:
            self.connection.send(message)


@dataclass(eq=False)
class Wish:
    """Resources that somebody waits for: a lease request, or an actor that is to start."""

    resources: dict[str, int]
    on_granted: Callable[[], None]
    on_spilled: Callable[[m.NodeInfo], None] | None = None
    backlog: int = 1
    since: float = field(default_factory=time.monotonic)


class LeaseManager:
    """Grants, spills, lends and takes back. Resources are given back exactly once."""

    def __init__(
        self, row: Callable[[], m.NodeInfo], scheduler: Scheduler, pool: WorkerPool,
        nodes: NodeTable,
    ) -> None:  # fmt: skip
        self._row = row
        self._scheduler = scheduler
        self._pool = pool
        self._nodes = nodes
        self._leases: dict[int, Lease] = {}
        self._lease_of: dict[bytes, Lease] = {}
        self._lent: dict[bytes, dict[str, int]] = {}
        self._wishes: dict[tuple[Process, int], Wish] = {}
        self._warned: set[tuple[tuple[str, int], ...]] = set()
        self._mourners: dict[bytes, Process] = {}
        self._preparing: dict[tuple[Process, int], asyncio.Task[None]] = {}
        self._next_lease = 1

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
            process.send(m.LeaseRefused(message.request_id, str(error), "runtime_env"))
            return
        finally:
            self._preparing.pop((process, message.request_id), None)
        self._request(process, message, env)

    def _request(self, process: Process, message: m.RequestLease, env: Prepared) -> None:
        key = (process, message.request_id)

        def granted() -> None:
            del self._wishes[key]
            self._pool.want(
                message.job.job_id, lambda worker: self._grant(process, message, worker),
                env=env, refuse=refuse,
            )  # fmt: skip

        def refuse(text: str) -> None:
            self.give_back(message.resources)
            process.send(m.LeaseRefused(message.request_id, text, "runtime_env"))

        def spilled(node: m.NodeInfo) -> None:
            del self._wishes[key]
            process.send(
                m.LeaseSpilled(message.request_id, node.node_id, node.host, node.frame_port)
            )

        wish = self._wishes[key] = Wish(message.resources, granted, spilled, message.backlog)
        self.submit(wish, may_spill=not message.spilled)

    def cancel(self, process: Process, request_id: int) -> None:
        """A submitter does not want it any more; nothing happens when it crossed the grant."""
        preparing = self._preparing.pop((process, request_id), None)
        if preparing is not None:
            preparing.cancel()  # the environment itself is set up all the same
        wish = self._wishes.get((process, request_id))
        if wish is not None and self._scheduler.cancel(wish):
            del self._wishes[(process, request_id)]

    def submit(self, wish: Wish, may_spill: bool = False) -> None:
        """Grant a wish now or later; ``may_spill``: or hand it to a node that can now."""
        movable = wish.on_spilled is not None
        self._scheduler.submit(LeaseRequest(wish, wish.resources, movable))
        self.schedule()
        if may_spill:
            self.spill()
        if self._scheduler.waiting:
            self._warn_of(wish.resources)
            for holder in {lease.holder for lease in self._leases.values()}:
                holder.send(m.ReclaimLeases())

    def withdraw(self, wish: Wish) -> bool:
        """Take a wish back; False when it is granted already."""
        return self._scheduler.cancel(wish)

    def schedule(self) -> None:
        """Grant what fits; to be called whenever resources may have become free."""
        for granted in self._scheduler.grant(1 << 30):
            cast(Wish, granted.key).on_granted()

    def spill(self) -> None:
        """Hand waiting requests to nodes that can serve them; called after every report."""
        others = self._nodes.others()
        if not others or not self._scheduler.waiting:
            return
        for request, node in self._scheduler.spill(others):
            spilled = cast(Wish, request.key).on_spilled
            assert spilled is not None
            spilled(node)

    def _warn_of(self, resources: dict[str, int]) -> None:
        shape = tuple(sorted(resources.items()))
        if shape in self._warned or self._scheduler.feasible(resources):
            return
        self._warned.add(shape)
        logger.warning("%s", infeasible_text(resources, [self._row(), *self._nodes.others()]))

    def waiting(self) -> list[WaitingShape]:
        """What waits here, by shape, for the state API."""
        asked: dict[tuple[Hashable, ...], list[Wish]] = {}
        for request in self._scheduler.requests():
            wish = cast(Wish, request.key)
            shape = (wish.on_spilled is None, *sorted(wish.resources.items()))
            asked.setdefault(shape, []).append(wish)
        now = time.monotonic()
        return [
            WaitingShape(
                wishes[0].resources,
                max(len(wishes), max(wish.backlog for wish in wishes)),
                now - min(wish.since for wish in wishes),
                for_actor=wishes[0].on_spilled is None,
            )
            for wishes in asked.values()
        ]

    def is_leased(self, worker: Worker) -> bool:
        """Whether somebody holds a lease of the worker."""
        return worker.worker_id in self._lease_of

    # --- leases --------------------

    def _grant(self, process: Process, request: m.RequestLease, worker: Worker | None) -> None:
        if worker is None or process.closed:
            if worker is not None:
                self._pool.give_back(worker)
            self.give_back(request.resources)
            return
        assert worker.address is not None
        lease = Lease(self._next_lease, worker, process, request.resources, request.retriable)
        self._next_lease += 1
        self._leases[lease.lease_id] = process.leases[lease.lease_id] = lease
        self._lease_of[worker.worker_id] = lease
        process.send(m.LeaseGranted(request.request_id, lease.lease_id, worker.address))

    def return_lease(self, process: Process, lease_id: int, broken: bool) -> None:
        """A submitter gives a worker back; one whose connection ``broke`` is ended."""
        lease = process.leases.get(lease_id)
        if lease is not None:
            if broken and lease.worker.worker_id in self._pool.workers:
                self._mourners[lease.worker.worker_id] = process
            self._end(lease, broken, lost=broken)

    def _end(self, lease: Lease, broken: bool, lost: bool = False) -> None:
        del self._leases[lease.lease_id]
        del self._lease_of[lease.worker.worker_id]
        del lease.holder.leases[lease.lease_id]
        lent = self._lent.pop(lease.worker.worker_id, {})
        if broken:
            self._pool.kill(lease.worker, intended=not lost)
        else:
            self._pool.give_back(lease.worker)
        self.give_back({name: n - lent.get(name, 0) for name, n in lease.resources.items()})

    def give_back(self, resources: dict[str, int]) -> None:
        """Resources are free again; whoever waits for them is served."""
        self._scheduler.give_back(resources)
        self.schedule()

    def process_gone(self, process: Process) -> None:
        """Drop a submitter's requests and end its leases: their work has no owner any more."""
        for key in [key for key in self._preparing if key[0] is process]:
            self._preparing.pop(key).cancel()
        for key in [key for key in self._wishes if key[0] is process]:
            self._scheduler.cancel(self._wishes.pop(key))
        for lease in list(process.leases.values()):
            self._end(lease, broken=True)
        self._mourners = {w: p for w, p in self._mourners.items() if p is not process}

    def worker_gone(self, worker: Worker, cause: str) -> None:
        """A worker ended: so does its lease, and who had it hears the cause."""
        lease = self._lease_of.get(worker.worker_id)
        mourner = self._mourners.pop(worker.worker_id, None)
        if lease is not None:
            mourner = lease.holder
            self._end(lease, broken=True)
        if mourner is not None:
            mourner.send(
                m.WorkerDied(worker.worker_id, cause, bool(worker.out_of_memory), worker.retry)
            )

    def candidates(self) -> list[Candidate]:
        """Who may be ended when memory runs out."""
        return [
            Candidate(lease.worker.worker_id, lease.holder, lease.retriable, lease.since)
            for lease in self._leases.values()
        ]

    # --- blocked tasks --------------------

    def lend(self, process: Process) -> None:
        """The worker's task blocks: its CPUs may be used by others meanwhile."""
        lease = self._lease_of.get(process.worker_id)
        if lease is not None and process.worker_id not in self._lent:
            lent = {"CPU": lease.resources.get("CPU", 0)}
            self._lent[process.worker_id] = lent
            self.give_back(lent)

    def take_back(self, process: Process) -> None:
        """It goes on, also when that makes the node's CPUs negative for a while."""
        lent = self._lent.pop(process.worker_id, None)
        if lent is not None:
            self._scheduler.take(lent)
