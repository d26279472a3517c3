"""Messages for those who watch: output, warnings, task events and the user's metrics."""

from __future__ import annotations

import msgspec

from nbray.wire.records import Index, MetricRow, OutputSource, TaskEvent

# --- output -----------------------------------------------------------------------------


class OutputLines(msgspec.Struct, array_like=True, tag=70):
    """Worker to the driver of its job: what user code wrote to ``stream``.

    ``text`` goes on where the last message of this task and stream ended, perhaps inside a
    line. A carriage return in front of a line's text takes the place of what the line held.
    After it ``dropped`` lines were left out; the worker's log has them.
    """

    source: OutputSource
    stream: str
    text: str
    dropped: int = 0


class OutputDisplay(msgspec.Struct, array_like=True, tag=71):
    """Worker to the driver of its job: user code displayed something rich.

    ``kind`` is ``display_data``, ``update_display_data`` or ``clear_output``; ``content`` that
    message's content as JSON, as Jupyter defines it.
    """

    source: OutputSource
    kind: str
    content: bytes


class TaskSays(msgspec.Struct, array_like=True, tag=194):
    """Worker to the driver of its job: something for the notebook beside the task's output.

    ``kind`` says what ``content`` is (see `nbray.debugging`); ``worker_id`` whom to answer.
    """

    source: OutputSource
    worker_id: bytes
    kind: str
    content: bytes


class NotebookAnswers(msgspec.Struct, array_like=True, tag=195):
    """Driver to a worker that asked by `TaskSays`, under the number that its content has."""

    number: Index
    content: bytes


# --- scheduling -------------------------------------------------------------------------


class SchedulingWarning(msgspec.Struct, array_like=True, tag=130):
    """Raylet to the process that asked, or to a job's driver: what waits, and why.

    ``origin`` is that of what waits (see `TaskSpec`).
    """

    text: str
    origin: int = 0


# --- ends -------------------------------------------------------------------------------


class ProcessLeaves(msgspec.Struct, array_like=True, tag=191):
    """Worker or driver to raylet: why it is about to end, as `raylet.worker_exits.Exit` has it."""

    kind: str
    detail: str


# --- task events ------------------------------------------------------------------------


class TaskEvents(msgspec.Struct, array_like=True, tag=155):
    """Worker or driver to raylet, in batches: tasks that ended; ``dropped`` more are not told."""

    rows: list[TaskEvent]
    dropped: Index = 0


class TellTasks(msgspec.Struct, array_like=True, tag=156):
    """Raylet to its processes: what is unfinished? Answered by `TaskEvents` and `TasksTold`.

    Of ``job_id`` and of ``origin``, if they are given; at most ``limit`` rows, oldest first.
    """

    request_id: int
    limit: Index
    job_id: bytes = b""
    origin: int = 0


class TasksTold(msgspec.Struct, array_like=True, tag=157):
    """Process to raylet: its unfinished tasks, and those that run in it.

    ``unfinished``: how many tasks of each function that it submitted have not ended, all of them.
    """

    request_id: int
    rows: list[TaskEvent]
    unfinished: dict[str, Index]


# --- profiles ---------------------------------------------------------------------------


class TellStacks(msgspec.Struct, array_like=True, tag=192):
    """Raylet to a process: what do your threads do? Answered by `StacksTold`.

    Looked at ``per_s`` times a second for ``seconds``, once for 0; with ``memory``, what is
    allocated meanwhile; with ``working``, for how many ms the user's code was where.
    """

    request_id: int
    seconds: float = 0.0
    per_s: float = 100.0
    memory: bool = False
    working: bool = False


class StacksTold(msgspec.Struct, array_like=True, tag=193):
    """Process to raylet: how often each stack was seen, or what `TellStacks` asks for instead.

    A stack is its thread and frames, outermost first, joined by ";".
    """

    request_id: int
    counts: dict[str, Index] = {}
    error: str = ""


# --- the user's metrics -----------------------------------------------------------------


class MetricsRecorded(msgspec.Struct, array_like=True, tag=158):
    """Worker or driver to raylet, in batches: what was recorded since the last one."""

    rows: list[MetricRow]
