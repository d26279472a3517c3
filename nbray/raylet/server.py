"""The raylet: it builds the rooms, passes messages to whoever registered for them, and reports."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from nbray.common.background import Background
from nbray.common.config import Config
from nbray.common.pids import machine, start_time
from nbray.common.session import Session
from nbray.raylet.draining import Draining, Surroundings
from nbray.raylet.failures import fail
from nbray.raylet.gateway import GcsGateway
from nbray.raylet.jobs import Jobs
from nbray.raylet.nodes import NodeTable, watch_nodes
from nbray.raylet.objects.manager import ObjectManager
from nbray.raylet.process import Handlers, Process
from nbray.raylet.telling import Telling
from nbray.raylet.watch.inquiries import Inquiries
from nbray.raylet.watch.reporting import Reporter
from nbray.raylet.watch.service import WatchService
from nbray.raylet.workers.liveness import Liveness
from nbray.raylet.workers.service import WorkerService
from nbray.raylet.workers.templates import ForkedTemplate
from nbray.scheduling.labels import NODE_ID
from nbray.wire import gcs_messages as g
from nbray.wire import messages as m
from nbray.wire.aio import FrameConnection
from nbray.wire.bulk import BulkSocket
from nbray.wire.grpc_service import GrpcClient, Handler, RpcError
from nbray.wire.object_messages import TellObjects
from nbray.wire.raylet_messages import FindProcess, ProcessGone
from nbray.wire.records import LocalProcess, NodeInfo
from nbray.wire.scaling_messages import DrainNode
from nbray.wire.state_messages import NodeLoad
from nbray.wire.tls import Tls

logger = logging.getLogger(__name__)

_MOST_GIVERS = 32


class Raylet:
    """One node; implements the handler of the frame server."""

    def __init__(
        self, session: Session, host: str, gcs: GrpcClient, total: dict[str, int], store_bytes: int,
        is_head: bool, config: Config, spill_folder: Path, labels: dict[str, str], tls: Tls | None,
    ) -> None:  # fmt: skip
        self.node_id = os.urandom(28)
        self.socket_path = session.socket_path(f"raylet-{self.node_id.hex()[:8]}")
        self.frame_port = 0
        self.grpc_port = 0
        self._gcs = gcs
        self._row = NodeInfo(
            self.node_id, host, 0, 0, socket.gethostname(), is_head, True, total, {},
            labels={**labels, NODE_ID: self.node_id.hex()},
            process=LocalProcess(machine(), os.getpid(), start_time(os.getpid())),
        )  # fmt: skip
        self._processes: set[Process] = set()
        self._nodes = NodeTable(self.node_id, gcs, session.token)
        self._telling = Telling(self._nodes)
        self._objects = ObjectManager(
            self.node_id, store_bytes, spill_folder, self._nodes, config, session.token, tls,
            self._telling.tell,
        )  # fmt: skip
        self._telling.handlers = {
            **self._objects.heard(),
            ProcessGone: self._process_gone_elsewhere,
        }
        self._store = self._objects.store
        inquiries = Inquiries(self._processes)
        self._workers = WorkerService(
            session, self.socket_path, self._row, gcs, self._nodes, config, self._refresh,
            note_job=lambda job: self._jobs.note(job),
            flush=inquiries.flush,
            on_end=lambda worker, cause, wished: self._watch.worker_ended(worker, cause, wished),
            grows=lambda: self._reporter.grows,
        )  # fmt: skip
        self._jobs = Jobs(self.node_id, gcs, self._driver_joined, self._workers.end_job)
        self._liveness = Liveness(self.node_id, self._nodes, self._is_here, config.peer_patience_s)
        self._watch = WatchService(
            self.node_id, host, gcs, config, session.log_path("raylet.log").parent, inquiries,
            self._workers.pool, self._store.table.label,
        )  # fmt: skip
        gateway = GcsGateway(
            gcs,
            {
                "FindGroups": self._workers.groups,
                "FindActor": self._workers.actors,
                "ListActors": self._workers.actors,
            },
            fail,
        )
        self._inquiries = inquiries
        self._draining = Draining(
            self._row,
            Surroundings(
                self._kept_by, self._workers.begun, self._owners, self._workers.leases.recall,
                self._objects.evacuation.move_all, self._workers.leases.changed.set,
            ),
        )  # fmt: skip
        self._background = Background()
        self._reporter = Reporter(
            gcs, config, lambda: g.Report(self.row(), self._load()), self._look_after,
            self._workers.leases.changed,
        )  # fmt: skip
        self._handlers: Handlers = {
            **self._workers.handlers(),
            **self._objects.handlers(),
            **self._watch.handlers(),
            m.AskProcess: self._liveness.answer,
            m.RegisterWorker: self._register_worker,
            m.RegisterDriver: self._jobs.register,
            m.GcsRequest: gateway.pass_on,
        }

    # --- life --------------------

    def start_workers(self, forked: ForkedTemplate | None = None) -> None:
        """Start the template, if it was not ``forked`` before, and the first workers."""
        self._workers.start(forked)
        self._store.start()
        self._watch.start()

    def may_grow(self) -> None:
        """There is going to be an autoscaler: it has said nothing yet."""
        self._reporter.grows = True

    def take_bulk(self, sock: BulkSocket) -> None:
        """Another raylet asks for objects on this socket."""
        self._objects.take_bulk(sock)

    def stop(self) -> None:
        """End all workers."""
        self._workers.stop()
        self._objects.stop()

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """What the GCS and other raylets may call by gRPC."""
        return {
            **self._workers.services(),
            **self._objects.services(),
            **self._watch.services(),
            **self._telling.services(),
            "Ping": (g.Empty, self._reporter.ping),
            "Drain": (DrainNode, self._draining.drain),
            "WarnJob": (g.WarnJob, self._jobs.warn),
            "FindProcess": (FindProcess, self._liveness.find),
        }

    # --- the GCS --------------------

    def row(self, alive: bool = True) -> NodeInfo:
        """This node's row in the node table."""
        row = self._row
        row.frame_port, row.grpc_port, row.alive = self.frame_port, self.grpc_port, alive
        row.stats = {
            **self._watch.machine.stats(),
            **self._watch.gpus.stats(),
            **self._store.stats(),
            "workers": float(len(self._workers.pool.workers)),
            "pending_leases": float(self._workers.pending),
        }
        row.received_from = dict(self._objects.received().most_common(_MOST_GIVERS))
        row.returning = self._workers.leases.returning()
        row.kept_by, row.idle_s = self._draining.use()
        return row

    def _load(self) -> NodeLoad:
        return NodeLoad(
            self._workers.waiting(), self._watch.rows.counts, self._workers.actors.waiting()
        )

    def _kept_by(self) -> list[str]:
        """What keeps this node from being idle, in words."""
        return self._workers.kept_by() + self._jobs.kept_by()

    async def _owners(self) -> list[str]:
        """The workers of this node that own what others need, or do not answer, in words."""
        answers = await self._inquiries.ask_all(lambda number: TellObjects(number, 0))
        return [
            f"worker pid {process.pid} does not answer"
            if told is None
            else f"worker pid {process.pid} owns {told.owned} objects that others need"
            for process, told in answers
            if process.is_worker and not process.closed and (told is None or told.owned)
        ]

    def taken_in(self, reply: g.Reported) -> None:
        """The GCS has answered this node's first report."""
        self._reporter.answered(reply)

    async def report(self) -> None:
        """Report to the GCS for ever; returns when this node has to leave."""
        self._background.start(watch_nodes(self.node_id, self._gcs, self._nodes_changed))
        loop = asyncio.get_running_loop()
        ends = [
            loop.create_task(self._reporter.run()),
            loop.create_task(self._draining.left.wait()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:  # a report behind that of its leaving would be refused, and said so
                end.cancel()

    def _look_after(self) -> None:
        """What is to be done again and again."""
        self._workers.look_after()
        self._nodes.settle()
        self._objects.look_after()
        self._workers.leases.on_nodes_changed()

    def _nodes_changed(self, changes: g.NodeChanges) -> None:
        """The GCS has news of nodes."""
        self._ended(self._nodes.apply(changes))
        self._workers.leases.on_nodes_changed()

    async def _refresh(self) -> None:
        try:
            self._ended(await self._nodes.look_up())
        except RpcError as error:
            logger.warning("The GCS was not asked for its nodes: %s", error)

    def _ended(self, node_ids: list[bytes]) -> None:
        """Nodes have left or died: so have their jobs, and what they owned."""
        for node_id in node_ids:
            logger.warning("Node %s has left or died.", node_id.hex()[:8])
            self._objects.node_gone(node_id)
            self._jobs.node_gone(node_id)
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
            if process.silent:
                self._workers.leases.speaks(process)
            self._handle(process, message)
        except Exception as error:
            fail(process, message, error)

    def _handle(self, process: Process, message: m.Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            peer = process.connection.peer
            logger.warning("An unexpected %s from %s.", type(message).__name__, peer)
            return
        work = handler(process, message)
        if asyncio.iscoroutine(work):
            self._background.start(_guarded(process, message, work))

    def on_broken(self, conn: FrameConnection) -> None:
        """A process of another node lost its socket."""
        self._liveness.broken(conn)

    def on_closed(self, conn: FrameConnection, reason: str) -> None:
        process = conn.state
        if process is None:
            return
        process.closed = True
        self._processes.discard(process)
        for part in (self._workers, self._objects, self._watch):
            try:
                part.process_gone(process)
            except Exception:  # the other parts have to hear of it all the same
                logger.exception("The end of %s was not heard by %r.", conn.peer, part)
        if process.is_driver:
            self._jobs.driver_gone(process, reason)

    # --- who is here --------------------

    def _is_here(self, worker_id: bytes) -> bool:
        """Whether a worker or driver of this node lives."""
        return worker_id in self._workers.pool.workers or self._jobs.has_driver(worker_id)

    def _register_worker(self, process: Process, message: m.RegisterWorker) -> None:
        worker = self._workers.register(process, message)
        if worker is None:
            process.connection.close("it is not a worker of this node")
            return
        self._objects.introduce(process, f"worker pid {message.pid}")
        arena = self._store.arena
        process.send(m.WorkerRegistered(self.node_id, self._row.host, arena.path, arena.size))
        self._workers.pool.registered(worker)

    def _driver_joined(self, process: Process) -> None:
        self._objects.introduce(process, f"driver pid {process.pid}")
        self._watch.rows.driver_joined(process)
        arena = self._store.arena
        process.send(
            m.DriverRegistered(self.node_id, process.job_id, self._row.host, arena.path, arena.size)
        )

    def _process_gone_elsewhere(self, gone: ProcessGone) -> None:
        """Another raylet lost a driver or worker."""
        self._objects.owner_gone(gone.worker_id)
        if gone.job_id:
            self._jobs.ended_elsewhere(gone.job_id)


async def _guarded(process: Process, message: m.Message, work: Coroutine[Any, Any, None]) -> None:
    """Handle a message in the background; what raises fails that message only."""
    try:
        await work
    except Exception as error:
        fail(process, message, error)
