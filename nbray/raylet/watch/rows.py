"""What a raylet tells of itself to the state API: its processes, what waits, what failed."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import psutil

from nbray.common.pids import start_time
from nbray.raylet.exits import Exit, of_worker
from nbray.raylet.process import Process
from nbray.raylet.watch.inquiries import Inquiries
from nbray.wire.causes import Cause
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.messages import TasksRan
from nbray.wire.object_messages import ObjectsTold, TellObjects
from nbray.wire.state_messages import (
    Failure,
    Holder,
    Objects,
    ObjectsRequest,
    WorkerRow,
    Workers,
)
from nbray.wire.watching_messages import ProcessLeaves

logger = logging.getLogger(__name__)

_ENDED_KEPT = 1000
_MOST_NAMES = 1000
_OTHERS = "(other functions)"
_TICKS = os.sysconf("SC_CLK_TCK")
_BOOTED = psutil.boot_time()
_LOST_DRIVER = Exit("SYSTEM_ERROR", "The driver's connection ended without a word: it was killed.")


@dataclass
class _Driver:
    worker_id: bytes
    job_id: bytes
    pid: int
    started: float
    exit: Exit | None = None


class WatchedWorker(Protocol):
    """What is read of a worker: who it is, what it is for, and why it ended if that was meant."""

    worker_id: bytes
    pid: int
    started: int
    job_id: bytes
    actor_id: bytes
    exit: Exit | None


class WatchedWorkers(Protocol):
    """The workers of this node, for whoever watches."""

    def ready(self) -> Iterable[tuple[WatchedWorker, str]]:
        """Those that are ready, and what each does: IDLE, BUSY or ACTOR."""

    def leaves(self, worker_id: bytes, why: Exit) -> None:
        """A worker says why it is about to end."""

    def logs(self) -> set[str]:
        """The names of the logs of those that live, without suffix."""


class ExitRing:
    """The rows of the processes that ended last."""

    def __init__(self) -> None:
        self._rows: deque[WorkerRow] = deque(maxlen=_ENDED_KEPT)

    def add(self, row: WorkerRow, end: Exit, when: float) -> None:
        """A process ended."""
        row.exit_type, row.exit_detail, row.ended = end.kind, end.detail, when
        self._rows.append(row)

    def newest(self, most: int = _ENDED_KEPT) -> Iterable[WorkerRow]:
        """The rows, those that ended last first."""
        return islice(reversed(self._rows), most)


class NodeRows:
    """The processes of this node, and how often each function ran on it.

    ``counts`` has for each function how many of its tasks finished, failed and were cancelled.
    """

    def __init__(
        self, node_id: bytes, host: str, gcs: GrpcClient, workers: WatchedWorkers,
        inquiries: Inquiries, label_of: Callable[[bytes], str],
    ) -> None:  # fmt: skip
        self.counts: dict[str, tuple[int, int, int]] = {}
        self._node_id = node_id
        self._host = host
        self._gcs = gcs
        self._workers = workers
        self._inquiries = inquiries
        self._label_of = label_of
        self._drivers: dict[Process, _Driver] = {}
        self._exits = ExitRing()
        self._cpu: dict[int, tuple[float, float]] = {}

    def tasks_ran(self, _process: Process, message: TasksRan) -> None:
        """Count what has run in a worker; past `_MOST_NAMES` functions, they share a row."""
        for name, (finished, failed, cancelled) in message.counts.items():
            if name not in self.counts and len(self.counts) >= _MOST_NAMES:
                name = _OTHERS
            before = self.counts.get(name, (0, 0, 0))
            self.counts[name] = (
                before[0] + finished, before[1] + failed, before[2] + cancelled,
            )  # fmt: skip

    def driver_joined(self, process: Process) -> None:
        """A driver was taken in."""
        self._drivers[process] = _Driver(
            process.worker_id, process.job_id, process.pid, _began(start_time(process.pid))
        )

    def leaves(self, process: Process, message: ProcessLeaves) -> None:
        """A process says why it is about to end."""
        why = Exit(message.kind, message.detail)
        driver = self._drivers.get(process)
        if driver is None:
            self._workers.leaves(process.worker_id, why)
        else:
            driver.exit = driver.exit or why

    def process_gone(self, process: Process) -> None:
        """A connection ended; with that of a driver, its time in the cluster."""
        driver = self._drivers.pop(process, None)
        if driver is not None:
            row = WorkerRow(
                driver.worker_id, self._node_id, self._host, driver.pid, "DRIVER", driver.job_id,
                b"", 0, driver.started,
            )  # fmt: skip
            self._exits.add(row, driver.exit or _LOST_DRIVER, time.time())

    def worker_ended(self, worker: WatchedWorker, cause: Cause) -> None:
        """A worker ended, whoever meant it to."""
        row = WorkerRow(
            worker.worker_id, self._node_id, self._host, worker.pid,
            "ACTOR" if worker.actor_id else "IDLE", worker.job_id, worker.actor_id, 0,
            _began(worker.started),
        )  # fmt: skip
        self._exits.add(row, of_worker(worker.exit, cause), time.time())

    async def list_workers(self, _request: Empty) -> Workers:
        """The workers and drivers that are connected to this raylet, then those that ended."""
        rows = [
            self._row(d.worker_id, d.pid, "DRIVER", d.job_id, b"") for d in self._drivers.values()
        ]
        for worker, state in self._workers.ready():
            rows.append(
                self._row(worker.worker_id, worker.pid, state, worker.job_id, worker.actor_id)
            )
        living = [row for row in rows if row is not None]
        pids = {row.pid for row in living}
        self._cpu = {pid: known for pid, known in self._cpu.items() if pid in pids}
        return Workers([*living, *self._exits.newest()])

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
                row.call_site = row.call_site or self._label_of(row.object_id)
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
            with process.oneshot():
                rss, started = process.memory_info().rss, process.create_time()
                spent = process.cpu_times()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None  # it has just ended
        return WorkerRow(
            worker_id, self._node_id, self._host, pid, state, job_id, actor_id, rss, started,
            cpu_percent=self._share(pid, spent.user + spent.system, started),
        )  # fmt: skip

    def _share(self, pid: int, spent: float, started: float) -> float:
        """Percent of a processor since somebody asked last; since it began at first."""
        now = time.time()
        when, before = self._cpu.get(pid, (started, 0.0))
        self._cpu[pid] = (now, spent)
        return 100 * max(0.0, spent - before) / max(0.1, now - when)

    async def worker_failed(self, worker: WatchedWorker, cause: Cause) -> None:
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
    return _BOOTED + ticks / _TICKS
