"""The raylet's conversations with drivers and workers, and with the GCS."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import psutil

from nbray.common.config import Config
from nbray.common.session import Session
from nbray.object_store.arena import Arena
from nbray.raylet.scheduler import LeaseRequest, Scheduler
from nbray.raylet.store import ObjectTable
from nbray.raylet.worker_pool import Worker, WorkerPool
from nbray.wire import gcs_messages as g
from nbray.wire import messages as m
from nbray.wire.aio import FrameConnection
from nbray.wire.grpc_service import GrpcClient, RpcError

logger = logging.getLogger(__name__)

_GCS_METHODS = {"ListNodes", "FindActor"}


@dataclass(eq=False)
class _Lease:
    lease_id: int
    worker: Worker
    holder: FrameConnection
    resources: dict[str, int]


@dataclass(eq=False)
class _Peer:
    """What the raylet keeps of one connection."""

    worker_id: bytes
    job_id: bytes = b""
    worker: Worker | None = None
    leases: dict[int, _Lease] = field(default_factory=dict)


class Raylet:
    """One node; implements the handler of the frame server."""

    def __init__(
        self, session: Session, host: str, gcs: GrpcClient, total: dict[str, int], store_bytes: int,
        is_head: bool, config: Config,
    ) -> None:  # fmt: skip
        self.node_id = os.urandom(28)
        self.socket_path = session.socket_path(f"raylet-{self.node_id.hex()[:8]}")
        self.frame_port = 0
        self.grpc_port = 0
        self._host = host
        self._gcs = gcs
        self._config = config
        self._is_head = is_head
        self._scheduler = Scheduler(total)
        self._arena = Arena.create(store_bytes)
        self._store = ObjectTable(store_bytes)
        self._pool = WorkerPool(session, self.socket_path, host)
        self._pool.on_exit = self._on_worker_exit
        self._leases: dict[int, _Lease] = {}
        self._lease_of: dict[bytes, _Lease] = {}
        self._lent: dict[bytes, dict[str, int]] = {}
        self._next_lease = 1
        self._requests: dict[tuple[FrameConnection, int], m.RequestLease] = {}
        self._actor_resources: dict[bytes, dict[str, int]] = {}
        self._actors_starting: dict[bytes, asyncio.Future[m.ActorCreated]] = {}
        self._creations: list[tuple[float, FrameConnection, m.CreateObject]] = []
        self._drivers: set[FrameConnection] = set()
        self._nodes: list[m.NodeInfo] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life --------------------

    def start_workers(self) -> None:
        """Start the template and the first workers."""
        self._pool.start(min(4, self._scheduler.total.get("CPU", 0) // 10_000))

    def stop(self) -> None:
        """End all workers."""
        self._pool.stop()

    def row(self, alive: bool = True) -> m.NodeInfo:
        """This node's row in the node table."""
        memory = psutil.virtual_memory()
        stats = {
            "cpu_percent": psutil.cpu_percent(),
            "memory_used": float(memory.used),
            "memory_total": float(memory.total),
            "store_used": float(self._store.allocator.used),
            "store_total": float(self._store.allocator.capacity),
            "objects": float(len(self._store)),
            "workers": float(len(self._pool.workers)),
            "pending_leases": float(self._scheduler.waiting),
        }
        return m.NodeInfo(
            self.node_id, self._host, self.frame_port, self.grpc_port, socket.gethostname(),
            self._is_head, alive, self._scheduler.total, self._scheduler.available, stats,
        )  # fmt: skip

    async def report(self) -> None:
        """Report to the GCS for ever; returns when this node has to leave."""
        silent_since = time.monotonic()
        while True:
            try:
                reply = await self._gcs.call("Report", g.Report(self.row()), g.Nodes, 2.0)
                silent_since = time.monotonic()
                if reply.rejected:
                    logger.error("The GCS declared this node dead; it leaves.")
                    return
                self._nodes = reply.nodes
            except RpcError as error:
                if time.monotonic() - silent_since > 30.0:
                    logger.error("The GCS did not answer for 30 s (%s); the node leaves.", error)
                    return
            self._pool.trim(max(1, self._scheduler.total.get("CPU", 0) // 10_000))
            await asyncio.sleep(self._config.health_check_period_s)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the frame server's handler --------------------

    def on_message(self, conn: FrameConnection, message: m.Message) -> None:
        match message:
            case m.RequestLease():
                self._request_lease(conn, message)
            case m.ReturnLease():
                self._return_lease(message.lease_id, message.broken)
            case m.CancelLeaseRequest():
                if self._scheduler.cancel((conn, message.request_id)):
                    del self._requests[(conn, message.request_id)]
            case m.WorkerBlocked():
                self._lend(conn)
            case m.WorkerUnblocked():
                self._take_back(conn)
            case m.CreateObject():
                self._creations.append((time.monotonic(), conn, message))
                self._create_objects()
            case m.SealObject():
                self._store.seal(message.object_id)
            case m.GetObject():
                self._get_object(conn, message)
            case m.UnpinObjects():
                for object_id in message.object_ids:
                    self._store.unpin(object_id, conn)
                self._create_objects()
            case m.FreeObjects():
                for object_id in message.object_ids:
                    self._store.free(object_id)
                self._create_objects()
            case m.RegisterWorker():
                self._register_worker(conn, message)
            case m.RegisterDriver():
                self._spawn(self._register_driver(conn, message))
            case m.CreateActor():
                self._spawn(self._create_actor(conn, message))
            case m.WatchActor():
                self._spawn(self._watch_actor(conn, message))
            case m.KillActor():
                self._spawn(self._kill_actor(message))
            case m.ActorCreated():
                starting = self._actors_starting.pop(message.actor_id, None)
                if starting is not None and not starting.done():
                    starting.set_result(message)
            case m.GcsRequest():
                self._spawn(self._pass_to_gcs(conn, message))
            case _:
                logger.warning("An unexpected %s from %s.", type(message).__name__, conn.peer)

    def on_closed(self, conn: FrameConnection, reason: str) -> None:
        peer = conn.state
        if not isinstance(peer, _Peer):
            return
        for key in [key for key in self._requests if key[0] is conn]:
            self._scheduler.cancel(key)
            del self._requests[key]
        for lease in list(peer.leases.values()):
            # Its work has no owner any more.
            self._return_lease(lease.lease_id, broken=True)
        self._store.process_gone(conn, peer.worker_id)
        if conn in self._drivers:
            self._drivers.discard(conn)
            logger.info("Job %s ended: its driver has gone.", peer.job_id.hex())
            self._pool.finish_job(peer.job_id)
            self._spawn(self._finish_job(peer.job_id))
        elif peer.worker is not None:
            self._pool.kill(peer.worker)
        self._create_objects()
        self._schedule()

    # --- who is here --------------------

    def _register_worker(self, conn: FrameConnection, message: m.RegisterWorker) -> None:
        worker = self._pool.workers.get(message.address.worker_id)
        if worker is None:
            conn.close("it is not a worker of this node")
            return
        a = message.address
        worker.pid = message.pid
        worker.address = m.Address(a.worker_id, self.node_id, a.unix_path, a.host, a.port)
        worker.connection = conn
        conn.state = _Peer(a.worker_id, worker=worker)
        conn.send(m.WorkerRegistered(self.node_id, self._host, self._arena.path, self._arena.size))
        self._pool.registered(worker)

    async def _register_driver(self, conn: FrameConnection, message: m.RegisterDriver) -> None:
        try:
            job = await self._gcs.call(
                "RegisterJob",
                g.RegisterJob(message.address, message.namespace, message.entrypoint, message.pid),
                g.JobId,
            )
        except RpcError as error:
            conn.send(m.DriverRegistered(self.node_id, b"", "", "", 0, str(error)))
            return
        conn.state = _Peer(message.address.worker_id, job_id=job.job_id)
        self._drivers.add(conn)
        conn.send(
            m.DriverRegistered(
                self.node_id, job.job_id, self._host, self._arena.path, self._arena.size
            )
        )

    async def _finish_job(self, job_id: bytes) -> None:
        try:
            await self._gcs.call("FinishJob", g.JobId(job_id), g.Empty)
        except RpcError as error:
            logger.warning("The end of a job was not reported: %s", error)

    def _on_worker_exit(self, worker: Worker, cause: str) -> None:
        lease = self._lease_of.get(worker.worker_id)
        if lease is not None:
            self._return_lease(lease.lease_id, broken=True)
        resources = self._actor_resources.pop(worker.worker_id, None)
        if resources is not None:
            self._scheduler.give_back(resources)
        starting = self._actors_starting.pop(worker.actor_id, None)
        if starting is not None and not starting.done():
            starting.set_exception(ConnectionError(cause))
        elif worker.actor_id:
            self._spawn(self._report_death(worker.worker_id, cause))
        self._schedule()

    async def _report_death(self, worker_id: bytes, cause: str) -> None:
        try:
            await self._gcs.call("WorkerDied", g.WorkerDied(worker_id, cause), g.Empty)
        except RpcError as error:
            logger.warning("The death of a worker was not reported: %s", error)

    # --- leases --------------------

    def _request_lease(self, conn: FrameConnection, request: m.RequestLease) -> None:
        if not self._scheduler.feasible(request.resources):
            amounts = {name: units / 10_000 for name, units in request.resources.items()}
            logger.warning(
                "No node can ever serve %s; this one has %s in all. It waits.",
                amounts, {name: units / 10_000 for name, units in self._scheduler.total.items()},
            )  # fmt: skip
        key = (conn, request.request_id)
        self._requests[key] = request
        self._scheduler.submit(LeaseRequest(key, request.resources))
        self._schedule()
        if key in self._requests:
            for holder in {lease.holder for lease in self._leases.values()}:
                holder.send(m.ReclaimLeases())

    def _schedule(self) -> None:
        for granted in self._scheduler.grant(1 << 30):
            key: Any = granted.key
            request = self._requests.pop(key)
            conn = key[0]
            self._pool.want(
                request.job.job_id,
                lambda worker, conn=conn, request=request: self._grant(conn, request, worker),  # type: ignore[misc]
            )

    def _grant(self, conn: FrameConnection, request: m.RequestLease, worker: Worker) -> None:
        peer = conn.state
        assert worker.address is not None
        lease = _Lease(self._next_lease, worker, conn, request.resources)
        self._next_lease += 1
        self._leases[lease.lease_id] = lease
        self._lease_of[worker.worker_id] = lease
        if isinstance(peer, _Peer):
            peer.leases[lease.lease_id] = lease
        conn.send(m.LeaseGranted(request.request_id, lease.lease_id, worker.address))

    def _return_lease(self, lease_id: int, broken: bool) -> None:
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return
        self._lease_of.pop(lease.worker.worker_id, None)
        if isinstance(lease.holder.state, _Peer):
            lease.holder.state.leases.pop(lease_id, None)
        lent = self._lent.pop(lease.worker.worker_id, {})
        for name, amount in lease.resources.items():
            self._scheduler.give_back({name: amount - lent.get(name, 0)})
        if broken:
            self._pool.kill(lease.worker)
        else:
            self._pool.give_back(lease.worker)
        self._schedule()

    def _lend(self, conn: FrameConnection) -> None:
        peer = conn.state
        lease = self._lease_of.get(peer.worker_id) if isinstance(peer, _Peer) else None
        if lease is not None and lease.worker.worker_id not in self._lent:
            lent = {"CPU": lease.resources.get("CPU", 0)}
            self._lent[lease.worker.worker_id] = lent
            self._scheduler.give_back(lent)
            self._schedule()

    def _take_back(self, conn: FrameConnection) -> None:
        peer = conn.state
        if isinstance(peer, _Peer) and peer.worker_id in self._lent:
            self._scheduler.take(self._lent.pop(peer.worker_id))

    # --- objects --------------------

    def _create_objects(self) -> None:
        """Serve creations in order; one that does not fit waits for room, then fails."""
        waiting: list[tuple[float, FrameConnection, m.CreateObject]] = []
        for since, conn, request in self._creations:
            offset = self._store.create(request.object_id, request.size, request.owner_id)
            if offset is not None:
                conn.send(m.ObjectCreated(request.object_id, offset))
            elif (
                request.size > self._arena.size
                or time.monotonic() - since > self._config.store_full_wait_s
            ):
                conn.send(m.ObjectCreated(request.object_id, 0, self._full(request.size)))
            else:
                waiting.append((since, conn, request))
        self._creations = waiting
        if waiting:
            asyncio.get_running_loop().call_later(0.1, self._retry_creations, len(waiting))

    def _retry_creations(self, seen: int) -> None:
        if len(self._creations) == seen:
            self._create_objects()

    def _full(self, size: int) -> str:
        allocator = self._store.allocator
        return (
            f"The object store of node {self.node_id.hex()[:8]} has no room for "
            f"{size / 1e6:.1f} MB: "
            f"{allocator.used / 1e6:.1f} of {allocator.capacity / 1e6:.1f} MB are in use. "
            f"The largest: {self._store.holders() or 'none'}. "
            "Drop refs, or start the node with a larger --object-store-memory."
        )

    def _get_object(self, conn: FrameConnection, request: m.GetObject) -> None:
        def answer() -> None:
            pinned = self._store.pin(request.object_id, conn)
            if pinned is not None:
                conn.send(m.ObjectPinned(request.object_id, *pinned))
            elif self.node_id in request.stored.node_ids:
                self._store.when_sealed(request.object_id, answer)
            else:
                error = f"Object {request.object_id.hex()} is lost: its node is not reachable."
                conn.send(m.ObjectPinned(request.object_id, 0, 0, error))

        answer()

    # --- actors and the GCS --------------------

    async def start_actor(self, request: g.StartActor) -> g.ActorStarted:
        """Give an actor a worker and have it created (called by the GCS)."""
        spec = request.spec
        loop = asyncio.get_running_loop()
        demand = spec.options.resources
        while not all(self._scheduler.available.get(n, 0) >= a for n, a in demand.items()):
            for holder in {lease.holder for lease in self._leases.values()}:
                holder.send(m.ReclaimLeases())
            await asyncio.sleep(0.02)
        self._scheduler.take(demand)
        found: asyncio.Future[Worker] = loop.create_future()

        def use(worker: Worker) -> None:
            worker.actor_id = spec.actor_id
            found.set_result(worker)

        self._pool.want(spec.job_id, use, fresh=True)
        worker = await found
        self._actor_resources[worker.worker_id] = demand
        created: asyncio.Future[m.ActorCreated] = loop.create_future()
        self._actors_starting[spec.actor_id] = created
        assert worker.connection is not None
        worker.connection.send(m.BecomeActor(spec, request.job))
        try:
            result = await created
        except ConnectionError as error:
            return g.ActorStarted(None, str(error), retriable=True)
        if result.error_text:
            self._pool.kill(worker)
            return g.ActorStarted(None, result.error_text)
        return g.ActorStarted(worker.address)

    async def kill_worker(self, request: g.KillWorker) -> g.Empty:
        """End a worker's process (called by the GCS)."""
        worker = self._pool.workers.get(request.worker_id)
        if worker is not None:
            self._pool.kill(worker)
        return g.Empty()

    async def _create_actor(self, conn: FrameConnection, message: m.CreateActor) -> None:
        try:
            outcome = await self._gcs.call(
                "CreateActor", g.CreateActorRequest(message.spec, message.job), g.Outcome
            )
        except RpcError as error:
            outcome = g.Outcome(str(error))
        conn.send(m.ActorRegistered(message.spec.actor_id, outcome.error))

    async def _watch_actor(self, conn: FrameConnection, message: m.WatchActor) -> None:
        while True:
            try:
                request = g.WaitActor(message.actor_id, message.after)
                state = await self._gcs.call("WaitActor", request, m.ActorState, 3600.0)
            except RpcError as error:
                logger.warning("An actor's state is not known: %s", error)
                await asyncio.sleep(0.5)
                continue
            conn.send(state)
            return

    async def _kill_actor(self, message: m.KillActor) -> None:
        cause = "all its handles are gone" if message.out_of_scope else "nbray.kill ended it"
        request = g.KillActorRequest(message.actor_id, message.no_restart, cause)
        try:
            await self._gcs.call("KillActor", request, g.Empty)
        except RpcError as error:
            logger.warning("An actor was not killed: %s", error)

    async def _pass_to_gcs(self, conn: FrameConnection, message: m.GcsRequest) -> None:
        if message.method not in _GCS_METHODS:
            conn.send(m.GcsReply(message.request_id, b"", f"no such method: {message.method}"))
            return
        try:
            body = await self._gcs.call_raw(message.method, message.body)
        except RpcError as error:
            conn.send(m.GcsReply(message.request_id, b"", str(error)))
            return
        conn.send(m.GcsReply(message.request_id, body))
