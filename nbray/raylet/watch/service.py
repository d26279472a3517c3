"""The watching room as the raylet sees it: it builds the parts, and registers their handlers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbray.common.background import Background
from nbray.common.config import Config
from nbray.raylet.process import Handlers, Process
from nbray.raylet.watch.events import TaskEventRing
from nbray.raylet.watch.gpus import Gpus
from nbray.raylet.watch.inquiries import Inquiries
from nbray.raylet.watch.logs import LogFolder
from nbray.raylet.watch.machine import Machine
from nbray.raylet.watch.metrics import MetricTable
from nbray.raylet.watch.profiler import Profiler
from nbray.raylet.watch.rows import NodeRows, WatchedWorker, WatchedWorkers
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire import watching_messages as wm
from nbray.wire.causes import Cause
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import GrpcClient, Handler
from nbray.wire.state_messages import (
    LogsRequest,
    ObjectsRequest,
    ProfileRequest,
    ReadLog,
    TasksRequest,
)


class WatchService:
    """What this node reports of itself, and what it answers those who watch.

    Args:
        node_id: this node.
        host: its address.
        gcs: where ends that nobody meant are reported.
        config: bounds of what is kept.
        log_folder: the logs of this node.
        inquiries: asks the processes of this node.
        workers: the workers of this node.
        label_of: the line or task that made an object in this node's store.
    """

    def __init__(
        self,
        node_id: bytes,
        host: str,
        gcs: GrpcClient,
        config: Config,
        log_folder: Path,
        inquiries: Inquiries,
        workers: WatchedWorkers,
        label_of: Callable[[bytes], str],
    ) -> None:
        self._inquiries = inquiries
        self.rows = NodeRows(node_id, host, gcs, workers, inquiries, label_of)
        self._events = TaskEventRing(node_id, inquiries, config.task_events_kept)
        self._metrics = MetricTable(node_id)
        self._logs = LogFolder(log_folder, config, workers.logs)
        self.machine = Machine(log_folder)
        self.gpus = Gpus()
        self._profiler = Profiler(inquiries)
        self._background = Background()

    def handlers(self) -> Handlers:
        """What processes report."""
        return {
            m.TasksRan: self.rows.tasks_ran,
            wm.ProcessLeaves: self.rows.leaves,
            wm.TaskEvents: self._events.record,
            wm.MetricsRecorded: self._metrics.record,
            wm.TasksTold: self._inquiries.answered,
            wm.StacksTold: self._inquiries.answered,
            om.ObjectsTold: self._inquiries.answered,
        }

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """What the GCS asks for those who watch."""
        return {
            "ListWorkers": (Empty, self.rows.list_workers),
            "ListTasks": (TasksRequest, self._events.list_tasks),
            "ListObjects": (ObjectsRequest, self.rows.list_objects),
            "Metrics": (Empty, self._metrics.list),
            "ListLogs": (LogsRequest, self._logs.list),
            "ReadLog": (ReadLog, self._logs.read),
            "Profile": (ProfileRequest, self._profiler.profile),
        }

    def start(self) -> None:
        """Keep the bounds of the logs, and look at the GPUs, from now on."""
        self._background.forever(self._logs.keep_bounds)
        self._background.forever(self.gpus.run)

    def process_gone(self, process: Process) -> None:
        """A connection ended: nothing more is to be expected of it."""
        self.rows.process_gone(process)
        self._inquiries.process_gone(process)
        self._metrics.process_gone(process)

    def worker_ended(self, worker: WatchedWorker, cause: Cause, wished: bool) -> None:
        """A worker ended; an end that nobody wished is reported to the GCS."""
        self.rows.worker_ended(worker, cause)
        if not wished:
            self._background.start(self.rows.worker_failed(worker, cause))
