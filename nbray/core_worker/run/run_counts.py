"""How many tasks of each function have run in this worker, which is told once a second."""

from __future__ import annotations

from nbray.core_worker.ports import Sink
from nbray.wire.messages import TaskDone, TasksRan
from nbray.wire.records import TaskSpec

_PERIOD_S = 1.0


class RunCounts:
    """Counts replies, for the raylet's statistics. Under the baton."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._finished: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._cancelled: dict[str, int] = {}
        self._telling = False

    def add(self, spec: TaskSpec, done: TaskDone) -> None:
        """A task has run."""
        counts = self._finished
        if done.failed():
            counts = self._cancelled if done.cancelled else self._failed
        name = spec.name
        counts[name] = counts.get(name, 0) + 1
        if not self._telling:
            self._telling = True
            self._sink.later(_PERIOD_S, self._on_time)

    def _on_time(self) -> None:
        self._telling = False
        self.tell()

    def tell(self) -> None:
        """Send what was counted."""
        finished, self._finished = self._finished, {}
        failed, self._failed = self._failed, {}
        cancelled, self._cancelled = self._cancelled, {}
        counts = {
            name: (finished.get(name, 0), failed.get(name, 0), cancelled.get(name, 0))
            for name in {**finished, **failed, **cancelled}
        }
        if counts:
            self._sink.to_raylet(TasksRan(counts))
