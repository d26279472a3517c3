"""The raylet: who is connected, who handles which message, and the reports to the GCS."""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil

from nbray.common.accelerators import devices_of
from nbray.common.background import Background
from nbray.common.config import Config
from nbray.common.pids import machine, start_time
from nbray.common.session import Session
from nbray.raylet.delivery import tell
from nbray.raylet.failures import fail
from nbray.raylet.nodes import NodeTable, watch_nodes
from nbray.raylet.objects.manager import ObjectManager
from nbray.raylet.watch.events import TaskEventRing
from nbray.raylet.watch.inquiries import Inquiries
from nbray.raylet.watch.logs import LogFolder
from nbray.raylet.watch.metrics import MetricTable
from nbray.raylet.watch.reporting import Reporter
from nbray.raylet.watch.rows import NodeState
from nbray.raylet.workers.actors import ActorManager
from nbray.raylet.workers.groups import GroupManager
from nbray.raylet.workers.leases import LeaseManager, Process
from nbray.raylet.workers.liveness import Liveness
from nbray.raylet.workers.memory import Candidate, MemoryMonitor
from nbray.raylet.workers.pool import Worker, WorkerPool
from nbray.raylet.workers.scheduler import Scheduler
from nbray.raylet.workers.worker import Here
from nbray.runtime_env.setup import EnvManager
from nbray.scheduling.labels import NODE_ID
from nbray.wire import gcs_messages as g
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire import watching_messages as wm
from nbray.wire.aio import FrameConnection
from nbray.wire.causes import Cause
from nbray.wire.grpc_service import GrpcClient, Handler, RpcError
from nbray.wire.raylet_messages import (
    DropObjects,
    FindProcess,
    KeepObjects,
    ProcessGone,
    TellOwner,
)
from nbray.wire.records import Address, LocalProcess, NodeInfo
from nbray.wire.state_messages import LogsRequest, ObjectsRequest, ReadLog, TasksRequest

logger = logging.getLogger(__name__)

_GCS_METHODS = {
    "ListNodes", "FindActor", "FindGroups",
    "ListActors", "ListJobs", "ListWorkers", "Demand", "RecentFailures", "TaskTotals",
    "GetDashboard", "ListTasks", "ListObjects", "ListLogs", "ReadLog",
    "KvPut", "KvGet", "KvDel", "KvKeys", "KvExists", "UsePackage",
}  # fmt: skip


class Raylet:
    """One node; implements the handler of the frame server."""

    def __init__(
        self, session: Session, host: str, gcs: GrpcClient, total: dict[str, int], store_bytes: int,
        is_head: bool, config: Config, spill_folder: Path, labels: dict[str, str],
    ) -> None:  # fmt: skip
        self.node_id = os.urandom(28)
        self.socket_path = session.socket_path(f"raylet-{self.node_id.hex()[:8]}")
        self.frame_port = 0
        self.grpc_port = 0
        self._gcs = gcs
        self._config = config
        self._cpus = total.get("CPU", 0) // 10_000
        self._row = NodeInfo(
            self.node_id, host, 0, 0, socket.gethostname(), is_head, True, total, {},
            labels={**labels, NODE_ID: self.node_id.hex()},
            process=LocalProcess(machine(), os.getpid(), start_time(os.getpid())),
        )  # fmt: skip
        self._scheduler = Scheduler(
            self._row, random.Random(self.node_id), devices_of(total, os.environ)
        )
        self._nodes = NodeTable(self.node_id, gcs, session.token)
        self._objects = ObjectManager(
            self.node_id, store_bytes, spill_folder, self._nodes, config, session.token
        )
        self._store = self._objects.store
        self._envs = EnvManager(session.path / "runtime_resources", self._fetch_env_file)
        self._pool = WorkerPool(
            session, self.socket_path, host, self._envs, config.graceful_exit_s,
            config.worker_start_timeout_s, config.worker_register_timeout_s,
        )  # fmt: skip
        self._pool.on_exit = self._on_worker_exit
        self._leases = LeaseManager(self._row, self._scheduler, self._pool, self._nodes)
        self._leases.on_unknown_node = lambda then: self._background.start(
            self._look_for_nodes(then)
        )
        self._actors = ActorManager(gcs, self._leases, self._pool)
        self._groups = GroupManager(
            gcs, self._row, self._scheduler, self._leases, self._actors, self._refresh
        )
        self._leases.on_unknown_group = self._groups.look_for
        self._job_homes: dict[bytes, bytes] = {}
        self._processes: set[Process] = set()
        self._drivers: dict[bytes, Process] = {}
        self._liveness = Liveness(self.node_id, self._nodes, self._is_here, config.peer_patience_s)
        self._inquiries = Inquiries(self._processes)
        self._state = NodeState(
            self.node_id, host, gcs, self._pool, self._leases, self._inquiries, self._store.table,
            self._actors.waiting,
        )  # fmt: skip
        self._events = TaskEventRing(self.node_id, self._inquiries, config.task_events_kept)
        self._metrics = MetricTable(self.node_id)
        self._logs = LogFolder(
            session.log_path("raylet.log").parent, config,
            lambda: {Path(worker.log).name for worker in self._pool.workers.values()},
        )  # fmt: skip
        self._background = Background()
        self._reporter = Reporter(
            gcs, config, lambda: g.Report(self.row(), self._state.load()), self._look_after,
            self._leases.changed,
        )  # fmt: skip

    # --- life --------------------

    def start_workers(self) -> None:
        """Start the template and the first workers."""
        self._pool.start(min(4, self._cpus))
        self._store.start()
        monitor = MemoryMonitor(self._name(), self._config, self._candidates, self._pids, self._end)
        self._background.start(monitor.run())
        self._background.start(self._logs.keep_bounds())
        self._background.start(
            self._envs.keep_bounds(
                self._pool.environments, self._config.package_kept_s,
                self._config.unused_packages_bytes,
            )
        )  # fmt: skip

    def take_bulk(self, sock: socket.socket) -> None:
        """Another raylet asks for objects on this socket."""
        self._objects.sender.take(sock)

    def stop(self) -> None:
        """End all workers."""
        self._pool.stop()
        self._objects.stop()

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """What the GCS and other raylets may call by gRPC."""
        return {
            "StartActor": (g.StartActor, self._start_actor),
            "EndActor": (g.EndActor, self._end_actor),
            "ActorsHere": (g.Empty, self._actors.here),
            "ChangeBundles": (g.ChangeBundles, self._groups.change_bundles),
            "Ping": (g.Empty, self._reporter.ping),
            "WarnJob": (g.WarnJob, self._warn_job),
            "DropObjects": (DropObjects, self._objects.drop_objects),
            "TellOwner": (TellOwner, self._objects.tell_owner),
            "KeepObjects": (KeepObjects, self._objects.keep_objects),
            "FindProcess": (FindProcess, self._liveness.find),
            "ProcessGone": (ProcessGone, self._process_gone_elsewhere),
            "ListWorkers": (g.Empty, self._state.list_workers),
            "ListTasks": (TasksRequest, self._events.list_tasks),
            "ListObjects": (ObjectsRequest, self._state.list_objects),
            "Metrics": (g.Empty, self._metrics.list),
            "ListLogs": (LogsRequest, self._logs.list),
            "ReadLog": (ReadLog, self._logs.read),
        }

    def row(self, alive: bool = True) -> NodeInfo:
        """This node's row in the node table."""
        memory = psutil.virtual_memory()
        store = self._store.table
        state = store.state(0)
        stats = {
            "cpu_percent": psutil.cpu_percent(),
            "memory_used": float(memory.used),
            "memory_total": float(memory.total),
            "store_used": float(state.used - state.clean),
            "store_total": float(store.allocator.capacity),
            "store_spilled": float(store.spilled_bytes),
            "objects": float(len(store)),
            "workers": float(len(self._pool.workers)),
            "pending_leases": float(self._scheduler.waiting),
        }
        row = self._row
        row.frame_port, row.grpc_port, row.alive = self.frame_port, self.grpc_port, alive
        row.stats = stats
        row.returning = self._leases.returning()
        return row

    async def report(self) -> None:
        """Report to the GCS for ever; returns when this node has to leave."""
        self._background.start(watch_nodes(self.node_id, self._gcs, self._nodes_changed))
        await self._reporter.run()

    def _look_after(self) -> None:
        """What is to be done again and again."""
        self._pool.trim(max(1, self._cpus))
        self._pool.look_after()
        self._leases.share(self._config.lease_share_s)
        self._nodes.settle()
        self._objects.look_after()
        self._leases.on_nodes_changed()

    def _nodes_changed(self, changes: g.NodeChanges) -> None:
        """The GCS has news of nodes."""
        self._ended(self._nodes.apply(changes))
        self._leases.on_nodes_changed()

    def _ended(self, node_ids: list[bytes]) -> None:
        for node_id in node_ids:
            self._on_node_died(node_id)

    async def _look_for_nodes(self, then: Callable[[], None]) -> None:
        await self._refresh()
        then()

    async def _refresh(self) -> None:
        try:
            self._ended(await self._nodes.look_up())
        except RpcError as error:
            logger.warning("The GCS was not asked for its nodes: %s", error)

    def _on_node_died(self, node_id: bytes) -> None:
        logger.warning("Node %s has left or died.", node_id.hex()[:8])
        self._objects.node_gone(node_id)
        for job_id, home in list(self._job_homes.items()):
            if home == node_id:
                self._end_job(job_id)
        for process in list(self._processes):
            if process.connection.node_id == node_id:
                process.connection.close("its node is dead")
            else:
                process.send(m.NodeDied(node_id))

    # --- the frame server's handler --------------------

    def on_message(self, conn: FrameConnection, message: m.Message) -> None:
        if conn.state is None:
            conn.state = Process(conn)
            self._processes.add(conn.state)
        process: Process = conn.state
        try:
            self._handle(process, message)
        except Exception as error:
            fail(process, message, error)

    def _handle(self, process: Process, message: m.Message) -> None:
        match message:
            case m.RequestLease():
                self._job_homes.setdefault(message.job.job_id, message.job.driver.node_id)
                self._leases.request(process, message)
            case m.Backlog():
                self._leases.note_backlog(process, message)
            case m.ReturnLease():
                self._leases.return_lease(process, message)
            case m.CancelLeaseRequest():
                self._leases.cancel(process, message.request_id)
            case m.AskProcess():
                self._liveness.answer(process, message)
            case m.WorkerBlocked():
                self._leases.lend(process)
            case m.AskAssigned():
                resources = self._leases.resources_of(process)
                process.send(m.Assigned(message.request_id, resources))
            case m.WorkerUnblocked():
                self._leases.take_back(process)
            case om.CreateObject():
                self._store.create(process, message)
            case om.SealObject():
                self._store.seal(message.object_id)
            case om.DiscardObject():
                self._objects.discard(process, message.object_id)
            case om.GetObject():
                self._objects.get(process, message)
            case om.UnpinObjects():
                self._store.unpin(process, message.object_ids)
            case om.KeepCopies():
                self._objects.keep(message)
            case om.ObjectWritten():
                self._store.written(process, message)
            case om.RequestRoom():
                self._store.lend_room(process)
            case om.ReturnRoom():
                self._store.return_room(process, message)
            case om.FreeObjects():
                self._objects.free(message.object_ids, message.node_ids, message.maker)
            case m.RegisterWorker():
                self._register_worker(process, message)
            case m.RegisterDriver():
                self._serve(process, message, self._register_driver(process, message))
            case m.CreateActor():
                if process.worker is not None:
                    process.worker.made_actors = True
                self._serve(process, message, self._actors.create(process, message))
            case m.ActorReady():
                self._serve(process, message, self._actors.ready(message))
            case m.WatchActor():
                self._serve(process, message, self._actors.watch(process, message))
            case m.KillActor():
                self._serve(process, message, self._actors.kill(message))
            case m.WorkerStays():
                if process.worker is not None:
                    self._pool.stays(process.worker)
            case m.TasksRan():
                self._state.tasks_ran(message.counts)
            case wm.ProcessLeaves():
                self._state.leaves(process, message)
            case wm.TaskEvents():
                self._events.told(process, message)
            case wm.MetricsRecorded():
                self._metrics.told(process, process.worker_id, message)
            case wm.TasksTold() | om.ObjectsTold():
                self._inquiries.answered(process, message.request_id, message)
            case m.ActorCreated():
                self._actors.created(process, message)
            case m.ActorWaits():
                self._actors.waits(process)
            case m.CreateGroup():
                self._groups.create(process, message)
            case m.WatchGroup():
                self._groups.watch(process, message.group_id)
            case m.RemoveGroup():
                self._groups.remove(message)
            case m.GcsRequest():
                self._serve(process, message, self._pass_to_gcs(process, message))
            case _:
                peer = process.connection.peer
                logger.warning("An unexpected %s from %s.", type(message).__name__, peer)

    def _serve(self, process: Process, message: m.Message, work: Coroutine[Any, Any, None]) -> None:
        """Handle a message in the background."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                fail(process, message, error)

        self._background.start(guarded())

    def on_broken(self, conn: FrameConnection) -> None:
        """A process of another node lost its socket."""
        self._liveness.broken(conn)

    def on_closed(self, conn: FrameConnection, reason: str) -> None:
        process = conn.state
        if process is None:
            return
        process.closed = True
        self._processes.discard(process)
        parts = (self._leases, self._objects, self._state, self._inquiries, self._metrics)
        for part in parts:
            try:
                part.process_gone(process)
            except Exception:  # the other parts have to hear of it all the same
                logger.exception("The end of %s was not heard by %r.", conn.peer, part)
        if process.is_driver:
            del self._drivers[process.job_id]
            logger.info("Job %s ended: its driver has gone (%s).", process.job_id.hex(), reason)
            self._end_job(process.job_id)
        elif process.worker is not None:
            self._pool.kill(process.worker, None)

    # --- who is here --------------------

    def _is_here(self, worker_id: bytes) -> bool:
        """Whether a worker or driver of this node lives."""
        return worker_id in self._pool.workers or any(
            process.worker_id == worker_id for process in self._drivers.values()
        )

    def _register_worker(self, process: Process, message: m.RegisterWorker) -> None:
        a = message.address
        worker = self._pool.workers.get(a.worker_id)
        if worker is None:
            process.connection.close("it is not a worker of this node")
            return
        worker.pid = message.pid
        worker.address = Address(a.worker_id, self.node_id, a.unix_path, a.host, a.port)
        worker.connection = process.connection
        process.worker_id, process.worker, process.pid = a.worker_id, worker, message.pid
        self._objects.introduce(process, f"worker pid {message.pid}")
        arena = self._store.arena
        process.send(m.WorkerRegistered(self.node_id, self._row.host, arena.path, arena.size))
        self._pool.registered(worker)

    async def _register_driver(self, process: Process, message: m.RegisterDriver) -> None:
        request = g.RegisterJob(
            message.address, message.namespace, message.entrypoint, message.pid, message.metadata
        )
        try:
            job = await self._gcs.call("RegisterJob", request, g.JobId)
        except RpcError as error:
            process.send(m.DriverRegistered(self.node_id, b"", "", "", 0, str(error)))
            return
        if process.closed:
            self._end_job(job.job_id)
            return
        process.worker_id, process.job_id = message.address.worker_id, job.job_id
        process.is_driver, process.pid = True, message.pid
        self._objects.introduce(process, f"driver pid {message.pid}")
        self._drivers[job.job_id] = process
        self._job_homes[job.job_id] = self.node_id
        self._state.driver_joined(process, message.pid)
        arena = self._store.arena
        process.send(
            m.DriverRegistered(self.node_id, job.job_id, self._row.host, arena.path, arena.size)
        )

    def _end_job(self, job_id: bytes) -> None:
        self._job_homes.pop(job_id, None)
        self._background.start(self._finish_job(job_id))

    async def _end_workers(self, job_id: bytes) -> None:
        """End a job's workers, once they have told of what ran in them."""
        await self._inquiries.last_words(lambda worker: worker.job_id == job_id)
        self._pool.finish_job(job_id)

    async def _finish_job(self, job_id: bytes) -> None:
        await self._end_workers(job_id)
        await tell(self._gcs, "FinishJob", g.JobId(job_id), f"The end of job {job_id.hex()}")

    async def _process_gone_elsewhere(self, gone: ProcessGone) -> g.Empty:
        """Another raylet lost a driver or worker."""
        self._objects.owner_gone(gone.worker_id)
        if gone.job_id:
            self._job_homes.pop(gone.job_id, None)
            self._background.start(self._end_workers(gone.job_id))
        return g.Empty()

    def _on_worker_exit(self, worker: Worker) -> None:
        cause = worker.cause(Here(self.node_id, self._name()))
        logger.info("%s", cause)
        self._state.worker_ended(worker)
        self._leases.worker_gone(worker, cause)
        if worker.actor_id:
            self._background.start(self._actors.worker_gone(worker, cause))
        if worker.made_actors:
            self._background.start(self._actors.owner_gone(worker, cause))
        if not worker.end_intended:
            self._background.start(self._state.worker_failed(worker, cause))

    # --- memory --------------------

    def _name(self) -> str:
        return f"node {self.node_id.hex()[:8]}, {socket.gethostname()}"

    def _candidates(self) -> list[Candidate]:
        return self._leases.candidates() + self._actors.candidates()

    def _pids(self) -> dict[bytes, int]:
        return {w.worker_id: w.pid for w in self._pool.workers.values() if w.pid}

    def _end(self, worker_id: bytes, cause: Cause) -> None:
        worker = self._pool.workers[worker_id]
        worker.out_of_memory = cause
        self._pool.kill(worker, None)

    async def _fetch_env_file(self, key: bytes) -> bytes | None:
        try:
            found = await self._gcs.call("KvGet", g.KvKey(g.PACKAGES, key), g.KvValue, 60.0)
        except RpcError as error:
            raise OSError(f"The GCS did not send a package: {error}") from error
        return found.value

    # --- the GCS --------------------

    async def _start_actor(self, request: g.StartActor) -> g.ActorStarted:
        self._job_homes.setdefault(request.spec.job_id, request.job.driver.node_id)
        return await self._actors.start(request)

    async def _end_actor(self, request: g.EndActor) -> g.Empty:
        await self._inquiries.last_words(lambda worker: worker.actor_id == request.actor_id)
        return await self._actors.end(request)

    async def _warn_job(self, request: g.WarnJob) -> g.Empty:
        """Something of a job whose driver is here waits."""
        driver = self._drivers.get(request.job_id)
        if driver is not None:
            driver.warn(request.text)
        return g.Empty()

    async def _pass_to_gcs(self, process: Process, message: m.GcsRequest) -> None:
        body, error = b"", ""
        if message.method not in _GCS_METHODS:
            error = f"no such method: {message.method}"
        else:
            if message.method == "FindGroups":
                await self._groups.settled()
            elif message.method == "FindActor":
                await self._actors.settled()
            try:
                body = await self._gcs.call_raw(message.method, message.body)
            except RpcError as failed:
                error = str(failed)
        process.send(m.GcsReply(message.request_id, body, error))
