"""What this process knows of single tasks, for the state API and the timeline.

A worker records the attempts that ended in it, since it knows best when they began and ended; an
owner records those that failed without a worker's reply (cancelled, crashed, unschedulable).
Records leave in batches for the node's raylet, which keeps a ring of them. What has not ended is
not recorded: the raylet asks for it when somebody wants to know (`TellTasks`), so that a
million waiting tasks cost nothing until then.

The hot path pays for a look-up and a comparison. At high rates short tasks are sampled: the first
`task_events_per_s` of each second are recorded and the others counted. Tasks that failed, or ran
for `LONG_S` or longer, are always recorded; if even those overflow the batch, the oldest go.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from nbray.common.ids import TaskID, actor_of
from nbray.core_worker.identity import Identity
from nbray.core_worker.ports import PendingWork, Sink
from nbray.wire.messages import TaskDone, TasksRan
from nbray.wire.records import TaskEvent, TaskSpec, ids_in
from nbray.wire.watching_messages import TaskEvents, TasksTold, TellTasks

_PERIOD_S = 0.5
LONG_S = 0.01
_MOST_IN_BATCH = 10_000
_LONGEST_TEXT = 4000
_LONGEST_NAME = 200
_MOST_NEEDS = 64

_CANCELLED = "TASK_CANCELLED"
_ERROR_TYPES = {
    "TaskCancelledError": _CANCELLED,
    "OutOfMemoryError": "OUT_OF_MEMORY",
    "WorkerCrashedError": "WORKER_DIED",
    "ActorUnschedulableError": "ACTOR_UNSCHEDULABLE_ERROR",
    "ActorUnavailableError": "ACTOR_UNAVAILABLE",
    "ActorPlacementGroupRemoved": "ACTOR_PLACEMENT_GROUP_REMOVED",
    "ActorDiedError": "ACTOR_DIED",
    "RuntimeEnvSetupError": "RUNTIME_ENV_SETUP_FAILED",
    "TaskUnschedulableError": "TASK_UNSCHEDULABLE_ERROR",
    "TaskPlacementGroupRemoved": "TASK_PLACEMENT_GROUP_REMOVED",
    "LocalRayletDiedError": "LOCAL_RAYLET_DIED",
    "OwnerDiedError": "OWNER_DIED",
    "ObjectLostError": "OBJECT_LOST",
}


def error_type(error: BaseException) -> str:
    """Ray's name for the way in which a task failed."""
    for kind in type(error).__mro__:
        if kind.__name__ in _ERROR_TYPES:
            return _ERROR_TYPES[kind.__name__]
    return "TASK_EXECUTION_EXCEPTION"


def epoch() -> float:
    """What the time of day was when the clock that nobody sets began."""
    return time.time() - time.monotonic()


class Unfinished(Protocol):
    """What this process has submitted, as `TellTasks` asks for it."""

    def unfinished_work(self) -> Iterable[PendingWork]:
        """The tasks and calls that have no reply yet."""

    def unfinished_counts(self) -> dict[str, int]:
        """How many there are of each function."""


class TaskEventLog:
    """The records of one process.

    Attributes:
        function_name: what the function of an id is called in its code.
        log_ends: the places behind what this worker has written to its logs.
        running: what runs here, with its start by `time.monotonic`; entered when a task begins,
            and taken out by `ran`.
        reports: send what is to be told before an answer, which may be the process's last word.
        errors: how tasks end that run here and raised, by their ids: the kind and the text.
    """

    def __init__(
        self, me: Identity, sink: Sink, unfinished: Unfinished, events_per_s: float
    ) -> None:
        self._me = me
        self._sink = sink
        self._submitted = unfinished
        self.function_name: Callable[[bytes], str] = lambda function_id: ""
        self.running: dict[bytes, tuple[TaskSpec, float]] = {}
        self.reports: list[Callable[[], None]] = [self.tell]
        self._batch: deque[TaskEvent] = deque(maxlen=_MOST_IN_BATCH)
        self.log_ends: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.errors: dict[bytes, tuple[str, str]] = {}
        self._ends: dict[bytes, tuple[int, int]] = {}
        self._budget = max(1, int(events_per_s * _PERIOD_S))
        self._room = self._budget
        self._dropped = 0
        self._counts: dict[str, tuple[int, int, int]] = {}
        self.set_clock()
        self._scheduled = self._urgent = False

    def set_clock(self) -> None:
        """See anew what the time of day is, which may have been set meanwhile."""
        self._shift = epoch()

    # --- any thread --------------------

    def raised(self, task_id: bytes, error: BaseException, text: str) -> None:
        """A task that runs here is about to end with that error."""
        self._ends[task_id] = self.log_ends()
        self.errors[task_id] = (error_type(error), text[-_LONGEST_TEXT:])

    def is_cancelled(self, task_id: bytes) -> bool:
        """Whether a task that runs here is about to end as one that was cancelled."""
        return self.errors.get(task_id, ("",))[0] == _CANCELLED

    def ran(self, spec: TaskSpec, done: TaskDone) -> None:
        """A task of this worker has ended."""
        began = self.running.pop(spec.task_id, None)
        error = self.errors.pop(spec.task_id, None) if self.errors else None
        if done.seconds < LONG_S and error is None:
            if not self._room:
                self._dropped += 1
                return
            self._room -= 1
        started = began[1] + self._shift if began is not None else 0.0
        ended = started + done.seconds if began is not None else time.time()
        state, kind, text = ("FAILED", *error) if error is not None else ("FINISHED", "", "")
        event = self._ran_here(_event(spec, state, started, ended, kind, text), spec)
        if error is not None:
            event.out_end, event.err_end = self._ends.pop(spec.task_id, (0, 0))
        self._add(event)

    def _ran_here(self, event: TaskEvent, spec: TaskSpec) -> TaskEvent:
        """Name the function, beside the task; a call shows its actor as that shows itself."""
        actor = self._me.actor
        if actor is None or not spec.method:
            event.function = self.function_name(spec.function_id)
            return event
        event.function = f"{actor.class_name}.{spec.method}"
        shown = self._me.actor_shown
        if spec.name == event.function and shown != actor.class_name:
            event.shown = f"{shown}.{spec.method}"[:_LONGEST_NAME]
        return event

    # --- under the baton --------------------

    def failed(self, spec: TaskSpec, error: Exception, attempt: int = -1) -> None:
        """An attempt at a task of this owner failed, and no worker has told of it."""
        text, kind = str(error)[-_LONGEST_TEXT:], error_type(error)
        _, failed, cancelled = self._counts.get(spec.name, (0, 0, 0))
        if kind == _CANCELLED:
            cancelled += 1
        else:
            failed += 1
        self._counts[spec.name] = (0, failed, cancelled)  # workers count what they replied to
        event = _event(spec, "FAILED", 0.0, time.time(), kind, text)
        if attempt >= 0:
            event.attempt = attempt
        self._add(event)

    def finished(self, task: PendingWork) -> None:
        """A worker has told of a long task what it knows; its owner knows when it came to be."""
        event = _owned(task, "", self._shift)
        event.ended = time.time()
        self._add(event)

    def tell(self) -> None:
        """Send what was recorded."""
        self._urgent = False
        rows = []
        while self._batch:
            rows.append(self._batch.popleft())
        dropped, self._dropped = self._dropped, 0
        counts, self._counts = self._counts, {}
        if counts:
            self._sink.to_raylet(TasksRan(counts))
        if rows or dropped:
            self._sink.to_raylet(TaskEvents(rows, dropped))

    def _add(self, event: TaskEvent) -> None:
        if len(self._batch) == _MOST_IN_BATCH:
            self._dropped += 1
        self._batch.append(event)
        if event.state == "FAILED":
            if not self._urgent:  # what went wrong must not wait for a process that may crash
                self._urgent = True
                self._sink.post(self.tell)
        elif not self._scheduled:
            self._scheduled = True
            self._sink.later(_PERIOD_S, self._on_time)

    def _on_time(self) -> None:
        self._scheduled = False
        self._room = self._budget
        self.set_clock()
        self.tell()

    def on_tell(self, message: TellTasks) -> None:
        """The raylet asks for what has not ended."""
        for tell in self.reports:
            tell()
        rows = islice(
            (
                row
                for row in self._unfinished(self._shift)
                if message.job_id in (b"", row.job_id) and message.origin in (0, row.origin)
            ),
            message.limit,
        )
        counts = self._submitted.unfinished_counts()
        self._sink.to_raylet(TasksTold(message.request_id, list(rows), counts))

    def _unfinished(self, shift: float) -> Iterator[TaskEvent]:
        """What runs here, and what this process submitted; ``shift`` makes seconds of the day."""
        for spec, began in list(self.running.values()):
            yield self._ran_here(_event(spec, "RUNNING", began + shift), spec)
        for task in self._submitted.unfinished_work():
            yield _owned(task, task.shown_state(), shift)


def _event(
    spec: TaskSpec, state: str, started: float = 0.0, ended: float = 0.0, kind: str = "",
    text: str = "",
) -> TaskEvent:  # fmt: skip
    event = TaskEvent(
        spec.task_id, spec.attempt, spec.name, spec.job_id, spec.actor_id, spec.origin, state,
        0.0, started, ended, spec.parent, kind, text,
    )  # fmt: skip
    if spec.dependencies or spec.contained:
        _tell_needs(event, spec)
    return event


def _tell_needs(event: TaskEvent, spec: TaskSpec) -> None:
    """Whose results the arguments of a task are or contain; the handles of actors are nobody's."""
    refs = [one.object_id for one in spec.dependencies]
    refs += ids_in(spec.contained)
    makers = dict.fromkeys([ref[: TaskID.SIZE] for ref in refs if not actor_of(ref)])
    event.needs = b"".join(list(makers)[:_MOST_NEEDS])
    event.needs_more = max(0, len(makers) - _MOST_NEEDS)


def _owned(task: PendingWork, state: str, shift: float) -> TaskEvent:
    event = _event(task.spec, state)
    shape = task.options.shape
    event.created, event.resources = task.submitted + shift, dict(shape.resources)
    event.selector = shape.selector
    return event
