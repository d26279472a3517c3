"""The workers' room as the raylet sees it: it builds the parts, and registers their handlers."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from nbray.common.accelerators import devices_of
from nbray.common.background import Background
from nbray.common.config import Config
from nbray.common.resources import UNIT
from nbray.common.session import Session
from nbray.raylet.gateway import fetch_package
from nbray.raylet.nodes import NodeTable
from nbray.raylet.process import Handlers, Process
from nbray.raylet.workers.actors import ActorManager
from nbray.raylet.workers.forks import Forks, Starts
from nbray.raylet.workers.groups import GroupManager
from nbray.raylet.workers.leases import LeaseManager
from nbray.raylet.workers.memory import Candidate, MemoryMonitor
from nbray.raylet.workers.node_resources import NodeResources
from nbray.raylet.workers.pool import WorkerPool
from nbray.raylet.workers.scheduler import Scheduler
from nbray.raylet.workers.templates import ForkedTemplate
from nbray.raylet.workers.worker import Here, Worker
from nbray.raylet.workers.worker_life import State
from nbray.runtime_env.setup import PLAIN, EnvManager
from nbray.wire import gcs_messages as g
from nbray.wire import messages as m
from nbray.wire.causes import Cause
from nbray.wire.grpc_service import GrpcClient, Handler
from nbray.wire.records import Address, JobConfig, NodeInfo
from nbray.wire.state_messages import WaitingShape

logger = logging.getLogger(__name__)

_PRESTARTED = 4


class WorkerService:
    """Who runs on this node, and who waits for that.

    Args:
        session: with the folders of logs and environments.
        socket_path: where workers connect.
        row: this node's row in the node table.
        gcs: the cluster's.
        nodes: the other nodes.
        config: periods and bounds.
        refresh: brings the rows of all nodes anew.
        note_job: is told of the job of what is to run here.
        flush: has workers report what they have recorded, before they are ended.
        on_end: called with a worker that ended, why, and whether somebody wished it.
        grows: whether an autoscaler may start nodes.
    """

    def __init__(
        self,
        session: Session,
        socket_path: str,
        row: NodeInfo,
        gcs: GrpcClient,
        nodes: NodeTable,
        config: Config,
        refresh: Callable[[], Awaitable[None]],
        note_job: Callable[[JobConfig], None],
        flush: Callable[[Iterable[bytes]], Awaitable[None]],
        on_end: Callable[[Worker, Cause, bool], None],
        grows: Callable[[], bool],
    ) -> None:
        self._session = session
        self._socket_path = socket_path
        self._row = row
        self._config = config
        self._note_job = note_job
        self._flush = flush
        self._on_end = on_end
        self._cpus = row.total.get("CPU", 0) // UNIT
        self._name = f"node {row.node_id.hex()[:8]}, {socket.gethostname()}"
        self._background = Background()
        self._envs = EnvManager(
            session.path / "runtime_resources", lambda key: fetch_package(gcs, key)
        )
        self.pool = WorkerPool(self._make_forks, config.graceful_exit_s, self._ended)
        resources = NodeResources(row, devices_of(row.total, os.environ))
        self._scheduler = Scheduler(resources, random.Random(row.node_id))
        self.leases = LeaseManager(
            row, self._scheduler, self.pool, self._envs, nodes, refresh,
            look_for_group=lambda group_id: self.groups.look_for(group_id), grows=grows,
            silence_s=config.lease_silence_s,
        )  # fmt: skip
        self.actors = ActorManager(
            gcs, self.leases, self.pool, self._envs, self.pool.workers.get,
            lambda: self.pool.why(PLAIN),
        )  # fmt: skip
        self.groups = GroupManager(gcs, resources, self.leases, self.actors, refresh)

    def handlers(self) -> Handlers:
        """What processes ask of workers."""
        return {
            **self.leases.handlers(),
            **self.actors.handlers(),
            **self.groups.handlers(),
            m.RequestLease: self._request_lease,
            m.WorkerStays: lambda process, _message: self.pool.stays(process.worker_id),
        }

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """What the GCS asks of workers."""
        return {
            "StartActor": (g.StartActor, self._start_actor),
            "EndActor": (g.EndActor, self._end_actor),
            "ActorsHere": (g.Empty, self.actors.here),
            "ChangeBundles": (g.ChangeBundles, self.groups.change_bundles),
        }

    # --- life --------------------

    def _make_forks(self, starts: Starts) -> Forks:
        self._forks = Forks(
            self._session, self._socket_path, self._row.host, starts,
            self._config.worker_start_timeout_s, self._config.worker_register_timeout_s,
        )  # fmt: skip
        return self._forks

    def start(self, forked: ForkedTemplate | None) -> None:
        """Start the template, if it was not ``forked`` before, and the first workers."""
        if forked is not None:
            self._forks.adopt(forked)
        self.pool.start(min(_PRESTARTED, self._cpus))
        monitor = MemoryMonitor(self._name, self._config, self._candidates, self._pids, self._end)
        self._background.forever(monitor.run)
        self._background.forever(self._share)
        self._background.forever(
            lambda: self._envs.keep_bounds(
                self.pool.environments, self._config.package_kept_s,
                self._config.unused_packages_bytes,
            ),
            "the bounds of environments",
        )  # fmt: skip

    async def _share(self) -> None:
        """Let those who wait have their turn, for as long as somebody does."""
        while True:
            await self.leases.contended.wait()
            await asyncio.sleep(self._config.lease_share_s / 2)
            self.leases.share(self._config.lease_share_s)

    def look_after(self) -> None:
        """Do what is to be done again and again."""
        self.pool.trim(max(1, self._cpus))
        self._forks.trim()
        self._forks.look_after()
        self.leases.share(self._config.lease_share_s)

    def stop(self) -> None:
        """End all workers."""
        self._envs.stop()
        self._forks.stop()

    def register(self, process: Process, message: m.RegisterWorker) -> Worker | None:
        """Take in a worker that connected; None if it is none of this node's."""
        a = message.address
        worker = self.pool.workers.get(a.worker_id)
        if worker is not None:
            process.worker_id, process.pid = a.worker_id, message.pid
            worker.pid, worker.connection = message.pid, process.connection
            worker.address = Address(a.worker_id, self._row.node_id, a.unix_path, a.host, a.port)
        return worker

    def process_gone(self, process: Process) -> None:
        """Drop a process's requests and leases; a worker without connection is ended."""
        if process.is_worker:
            self.pool.end(process.worker_id, None)
        self.leases.process_gone(process)

    async def end_job(self, job_id: bytes) -> None:
        """End a job's workers, once they have reported what ran in them."""
        workers = self.pool.workers.items()
        await self._flush([name for name, worker in workers if worker.job_id == job_id])
        self.pool.finish_job(job_id)

    # --- what waits --------------------

    def waiting(self) -> list[WaitingShape]:
        """Who waits for resources, or has them and waits for a worker."""
        return self.leases.waiting() + self.pool.waiting()

    def kept_by(self) -> list[str]:
        """What of this room keeps the node from being idle, in words."""
        leased, actors = self.leases.in_use(), self.actors.alive()
        words = [f"{leased} worker{'s' * (leased > 1)} leased for tasks"] if leased else []
        if actors:
            words.append(f"{actors} actor{'s' * (actors > 1)}")
        groups = sorted({bundle.group_id.hex()[:8] for bundle in self._row.bundles})
        return words + [f"bundles of placement group {name}" for name in groups]

    def begun(self) -> int:
        """How many leases and actors there have been on this node."""
        return self.leases.granted_ever + self.actors.started_ever

    @property
    def pending(self) -> int:
        """How many requests wait for resources."""
        return self._scheduler.waiting

    def _request_lease(self, process: Process, message: m.RequestLease) -> None:
        self._note_job(message.job)
        self.leases.request(process, message)

    async def _start_actor(self, request: g.StartActor) -> g.ActorStarted:
        self._note_job(request.job)
        return await self.actors.start(request)

    async def _end_actor(self, request: g.EndActor) -> g.Empty:
        if not request.graceful:  # who leaves by itself reports before
            workers = self.pool.workers.items()
            await self._flush([name for name, w in workers if w.actor_id == request.actor_id])
        return await self.actors.end(request)

    # --- ends --------------------

    def _ended(self, worker: Worker) -> None:
        cause = worker.cause(Here(self._row.node_id, self._name))
        logger.info("%s", cause)
        # First what cannot fail: the GCS hears of its actors, whoever gets what it had of the node.
        if worker.actor_id:
            self._background.start(self.actors.worker_gone(worker, cause))
        if worker.made_actors:
            self._background.start(self.actors.owner_gone(worker, cause))
        self.leases.worker_gone(worker, cause)
        expected = worker.state is State.LEFT
        if not expected:
            logger.info("Nobody ended this worker. Its story:\n%s", "\n".join(worker.story))
        self._on_end(worker, cause, expected)

    def _candidates(self) -> list[Candidate]:
        return self.leases.candidates() + self.actors.candidates()

    def _pids(self) -> dict[bytes, int]:
        return {w.worker_id: w.pid for w in self.pool.workers.values() if w.pid}

    def _end(self, worker_id: bytes, cause: Cause) -> None:
        self.pool.workers[worker_id].out_of_memory = cause
        self.pool.end(worker_id, None)
