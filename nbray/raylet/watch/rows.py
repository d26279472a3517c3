"""What a raylet tells of itself to the state API: its processes, what waits, what failed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from nbray.common.pids import start_time
from nbray.raylet.objects.table import ObjectTable
from nbray.raylet.watch.inquiries import Inquiries
from nbray.raylet.workers.exits import Exit, ExitRing
from nbray.raylet.workers.leases import LeaseManager, Process
from nbray.raylet.workers.pool import Worker, WorkerPool
from nbray.wire.causes import Cause
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.object_messages import ObjectsTold, TellObjects
from nbray.wire.state_messages import (
    Failure,
    Holder,
    NodeLoad,
    Objects,
    ObjectsRequest,
    WorkerRow,
    Workers,
)
from nbray.wire.watching_messages import ProcessLeaves

logger = logging.getLogger(__name__)

_MOST_NAMES = 1000
_OTHERS = "(other functions)"
_TICKS = os.sysconf("SC_CLK_TCK")
_LOST_DRIVER = Exit("SYSTEM_ERROR", "The driver's connection ended without a word: it was killed.")


@dataclass
class _Driver:
    worker_id: bytes
    job_id: bytes
    pid: int
    started: float
    exit: Exit | None = None


class NodeState:
    """The rows of this node."""

    def __init__(
        self, node_id: bytes, host: str, gcs: GrpcClient, pool: WorkerPool, leases: LeaseManager,
        inquiries: Inquiries, store: ObjectTable, actors_waiting: Callable[[], dict[bytes, str]],
    ) -> None:  # fmt: skip
        self._actors_waiting = actors_waiting
        self._node_id = node_id
        self._host = host
        self._gcs = gcs
        self._pool = pool
        self._leases = leases
        self._inquiries = inquiries
        self._store = store
        self._drivers: dict[Process, _Driver] = {}
        self._counts: dict[str, tuple[int, int, int]] = {}
        self._exits = ExitRing()

    def load(self) -> NodeLoad:
        """What the next report to the GCS says."""
        return NodeLoad(
            self._leases.waiting() + self._pool.waiting(), self._counts, self._actors_waiting()
        )

    def tasks_ran(self, counts: dict[str, tuple[int, int, int]]) -> None:
        """A worker tells what has run in it; past `_MOST_NAMES` functions, they share a row."""
        for name, (finished, failed, cancelled) in counts.items():
            if name not in self._counts and len(self._counts) >= _MOST_NAMES:
                name = _OTHERS
            before = self._counts.get(name, (0, 0, 0))
            self._counts[name] = (
                before[0] + finished, before[1] + failed, before[2] + cancelled,
            )  # fmt: skip

    def driver_joined(self, process: Process, pid: int) -> None:
        """A driver was taken in."""
        self._drivers[process] = _Driver(
            process.worker_id, process.job_id, pid, _began(start_time(pid))
        )

    def leaves(self, process: Process, message: ProcessLeaves) -> None:
        """A process says why it is about to end."""
        who = self._drivers.get(process) or process.worker
        if who is not None:
            who.exit = who.exit or Exit(message.kind, message.detail)

    def process_gone(self, process: Process) -> None:
        """A connection ended; with that of a driver, its time in the cluster."""
        driver = self._drivers.pop(process, None)
        if driver is not None:
            row = WorkerRow(
                driver.worker_id, self._node_id, self._host, driver.pid, "DRIVER", driver.job_id,
                b"", 0, driver.started,
            )  # fmt: skip
            self._exits.add(row, driver.exit or _LOST_DRIVER, time.time())

    def worker_ended(self, worker: Worker) -> None:
        """A worker ended, whoever meant it to."""
        row = WorkerRow(
            worker.worker_id, self._node_id, self._host, worker.pid,
            "ACTOR" if worker.actor_id else "IDLE", worker.job_id, worker.actor_id, 0,
            _began(worker.started),
        )  # fmt: skip
        self._exits.add(row, worker.how(), time.time())

    async def list_workers(self, _request: Empty) -> Workers:
        """The workers and drivers that are connected to this raylet, then those that ended."""
        rows = [
            self._row(d.worker_id, d.pid, "DRIVER", d.job_id, b"") for d in self._drivers.values()
        ]
        for worker in self._pool.workers.values():
            if worker.address is None:
                continue
            busy = "BUSY" if self._leases.is_leased(worker) else "IDLE"
            state = "ACTOR" if worker.actor_id else busy
            rows.append(
                self._row(worker.worker_id, worker.pid, state, worker.job_id, worker.actor_id)
            )
        return Workers([*(row for row in rows if row is not None), *self._exits.newest()])

    async def list_objects(self, request: ObjectsRequest) -> Objects:
        """What the processes of this node own and borrow; this store knows who made the large."""
        reply = Objects([])
        told: ObjectsTold | None
        answers = await self._inquiries.ask_all(lambda n: TellObjects(n, request.limit))
        for process, told in answers:
            if told is None:
                reply.silent += 1
                continue
            for row in told.rows:
                row.call_site = row.call_site or self._store.label(row.object_id)
            reply.holders.append(
                Holder(
                    self._node_id,
                    self._host,
                    process.worker_id,
                    process.pid,
                    process.is_driver,
                    told.rows,
                    told.owned,
                    told.owned_bytes,
                )
            )
        return reply

    def _row(
        self, worker_id: bytes, pid: int, state: str, job_id: bytes, actor_id: bytes
    ) -> WorkerRow | None:
        try:
            process = psutil.Process(pid)
            rss, started = process.memory_info().rss, process.create_time()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None  # it has just ended
        return WorkerRow(
            worker_id, self._node_id, self._host, pid, state, job_id, actor_id, rss, started
        )

    async def worker_failed(self, worker: Worker, cause: Cause) -> None:
        """Tell the GCS of a worker that ended although nobody meant it to."""
        failure = Failure(
            "worker", worker.worker_id, self._node_id, f"pid {worker.pid}", str(cause), time.time()
        )
        try:
            await self._gcs.call("ReportFailure", failure, Empty)
        except RpcError as error:
            logger.warning("The end of worker pid %d was not reported: %s", worker.pid, error)


def _began(ticks: int) -> float:
    """Seconds since the epoch for what `start_time` tells."""
    return psutil.boot_time() + ticks / _TICKS
