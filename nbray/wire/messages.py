"""Every message that travels in frames between drivers, workers and raylets.

A frame is a batch: a MessagePack list of these structs (see :mod:`nbray.wire.frames`).
They are grouped by conversation; each docstring says who sends it, when, and what
comes back. Those about objects, about groups, about the lease of a worker and those for
watchers have modules of their own, and what several messages carry is in :mod:`nbray.wire.records`.
"""

from __future__ import annotations

from typing import Union

import msgspec

from nbray.wire.causes import Cause
from nbray.wire.group_messages import CreateGroup, GroupState, RemoveGroup, WatchGroup
from nbray.wire.lease_messages import AskAssigned, AskIdle, Assigned, WorkerIdle
from nbray.wire.object_messages import (
    AddBorrower,
    BorrowerAdded,
    BufferLent,
    CopiesChanged,
    CreateObject,
    DiscardObject,
    FreeObjects,
    GetObject,
    KeepCopies,
    Locations,
    ObjectCreated,
    ObjectPinned,
    ObjectsTold,
    ObjectWritten,
    ReclaimBuffer,
    RemoveBorrower,
    RequestBuffer,
    RequestLocations,
    RequestValue,
    ReturnBuffer,
    SealObject,
    TellObjects,
    UnpinObjects,
    ValueReady,
)
from nbray.wire.records import (
    ActorSpec,
    Address,
    Dependency,
    Index,
    JobConfig,
    Size,
    TaskSpec,
    Value,
)
from nbray.wire.strategies import ANYWHERE, Selectors, Strategy
from nbray.wire.watching_messages import (
    MetricsRecorded,
    NotebookAnswers,
    OutputDisplay,
    OutputLines,
    ProcessLeaves,
    SchedulingWarning,
    StacksTold,
    TaskEvents,
    TaskSays,
    TasksTold,
    TellStacks,
    TellTasks,
)

# --- registration: every process with its raylet ------------------------------------


class RegisterDriver(msgspec.Struct, array_like=True, tag=1):
    """Driver to raylet, first message. Answered by `DriverRegistered`."""

    address: Address
    pid: int
    namespace: str
    sys_path: list[str]
    working_dir: str
    entrypoint: str
    metadata: dict[str, str] = {}


class DriverRegistered(msgspec.Struct, array_like=True, tag=2):
    """Raylet to driver; the arena's descriptor follows by SCM_RIGHTS via /proc."""

    node_id: bytes
    job_id: bytes
    host: str
    arena_path: str
    arena_size: int
    error: str = ""


class RegisterWorker(msgspec.Struct, array_like=True, tag=3):
    """Worker to raylet, first message. Answered by `WorkerRegistered`."""

    address: Address
    pid: int


class WorkerRegistered(msgspec.Struct, array_like=True, tag=4):
    """Raylet to worker."""

    node_id: bytes
    host: str
    arena_path: str
    arena_size: int


class Hello(msgspec.Struct, array_like=True, tag=5):
    """Driver or worker to another, first message of whoever connects: who it is, and its job."""

    address: Address
    job: JobConfig


class AskProcess(msgspec.Struct, array_like=True, tag=167):
    """Process to raylet: does that process live, or with no ``worker_id`` that node?

    By `ProcessState`.
    """

    request_id: int
    worker_id: bytes
    node_id: bytes


class ProcessState(msgspec.Struct, array_like=True, tag=168):
    """Raylet to process: it has ended, or it lives as far as is known."""

    request_id: int
    alive: bool


# --- leases: a submitter and a raylet -------------------------------------------------


class RequestLease(msgspec.Struct, array_like=True, tag=10):
    """Submitter to raylet. Answered by one `LeaseGranted`, `LeaseSpilled` or `LeaseRefused`.

    ``near`` is the node where most bytes of the arguments lie, if that is another one; ``origin``
    that of a task for which it is, which is told if no node can ever serve it.
    """

    request_id: int
    job: JobConfig
    resources: dict[str, Size]
    backlog: Size = 1
    spilled: bool = False
    retriable: bool = True
    runtime_env: str = ""
    strategy: Strategy = ANYWHERE
    selector: Selectors = ()
    near: bytes = b""
    origin: int = 0


class LeaseGranted(msgspec.Struct, array_like=True, tag=11):
    """Raylet to submitter: this worker is yours until you return it.

    ``devices``: the ids of accelerators that come with it, by resource name; ``wanted``: others
    wait for it, as `ReclaimLeases` says later.
    """

    request_id: int
    lease_id: int
    worker: Address
    devices: dict[str, list[str]] = {}
    wanted: bool = False


class LeaseSpilled(msgspec.Struct, array_like=True, tag=12):
    """Raylet to submitter: ask that raylet instead."""

    request_id: int
    node_id: bytes
    host: str
    port: int


class LeaseRefused(msgspec.Struct, array_like=True, tag=13):
    """Raylet to submitter: the request failed and why."""

    request_id: int
    cause: Cause


class CancelLeaseRequest(msgspec.Struct, array_like=True, tag=14):
    """Submitter to raylet: the request is not needed any more (a crossing grant is returned)."""

    request_id: int


class Backlog(msgspec.Struct, array_like=True, tag=19):
    """Submitter to raylet: for how many tasks these requests, which wait, stand together now."""

    request_ids: list[int]
    tasks: Size


class ReturnLease(msgspec.Struct, array_like=True, tag=15):
    """Submitter to raylet: the worker is free again.

    ``broken``: its connection was lost. ``worn``: it takes no more tasks, by ``max_calls``.
    """

    lease_id: int
    broken: bool = False
    worn: bool = False


class WorkerDied(msgspec.Struct, array_like=True, tag=149):
    """Raylet to whoever leased the worker: how it ended.

    If memory ran out, ``cause.again`` says whether what it ran is to be run again later, or failed.
    """

    worker_id: bytes
    cause: Cause


class ReclaimLeases(msgspec.Struct, array_like=True, tag=16):
    """Raylet to submitters: others wait for what you have here.

    Give back what is idle, and what will be when nothing waits for it, and these in any case.
    """

    lease_ids: list[int] = []


class WorkerBlocked(msgspec.Struct, array_like=True, tag=17):
    """Worker to raylet: my task waits in get; my CPUs may be lent out meanwhile."""


class WorkerUnblocked(msgspec.Struct, array_like=True, tag=18):
    """Worker to raylet: it goes on."""


# --- tasks: a submitter and a worker --------------------------------------------------


class PushTask(msgspec.Struct, array_like=True, tag=20, gc=False):
    """Submitter to worker. Answered by `TaskDone` or `TaskReturned`.

    ``function`` is the pickled function the first time it goes over a connection; ``devices``
    are those of the lease, and ``threads`` what its CPUs allow.
    """

    spec: TaskSpec
    function: bytes | None = None
    devices: dict[str, list[str]] | None = None
    threads: int = 1


class TaskDone(msgspec.Struct, array_like=True, tag=21, gc=False):
    """Worker to submitter: the values, how long it ran, and which argument refs it keeps.

    Fewer values than asked for end with an error, which is that of the rest. ``retry``: the
    function raised. ``items``: how many a stream had. ``leaving``: the worker takes no more tasks.
    ``raised``: the pickled class of an error that is stored. ``cancelled``: the error says so.
    """

    task_id: bytes
    values: list[Value]
    seconds: float
    borrowed: tuple[bytes, ...] = ()
    retry: bool = False
    items: Index = 0
    leaving: bool = False
    raised: bytes = b""
    cancelled: bool = False

    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self.retry or (bool(self.values) and self.values[-1].is_error)


class TasksReturned(msgspec.Struct, array_like=True, tag=22):
    """Worker to submitter: not started, since a task before them blocks or is long.

    Or since arguments of theirs have no copy on the nodes that ``lost`` names, by object id.
    ``forgotten``: functions that have to come along again, since the worker kept others.
    """

    task_ids: list[bytes]
    lost: dict[bytes, list[bytes]] = {}
    forgotten: list[bytes] = []


class HandoverDone(msgspec.Struct, array_like=True, tag=23):
    """Submitter to worker: refs inside the task's values are registered; drop your hold."""

    task_id: bytes


class CancelTask(msgspec.Struct, array_like=True, tag=24):
    """Owner to worker: stop that task; ``force`` ends the process, ``recursive`` its children.

    ``interrupt`` raises KeyboardInterrupt also in a method of an actor, which else is left to ask
    its runtime context.
    """

    task_id: bytes
    force: bool = False
    recursive: bool = False
    interrupt: bool = False


class GeneratorItem(msgspec.Struct, array_like=True, tag=151):
    """Worker to submitter: a streaming task yielded its item ``index`` (from 0)."""

    task_id: bytes
    index: Index
    value: Value


class ItemsTaken(msgspec.Struct, array_like=True, tag=152):
    """Submitter to worker, with back-pressure: the reader of a stream took ``count`` items."""

    task_id: bytes
    count: Size


class CancelObject(msgspec.Struct, array_like=True, tag=153):
    """Borrower to owner: stop the task that makes that object."""

    object_id: bytes
    force: bool = False
    recursive: bool = True


# --- actors: a process and its raylet, which speaks to the GCS --------------------------


class CreateActor(msgspec.Struct, array_like=True, tag=50):
    """Process to raylet. Answered by `ActorRegistered`; ``waits``: `ActorReady` follows."""

    spec: ActorSpec
    job: JobConfig
    waits: bool = False


class ActorReady(msgspec.Struct, array_like=True, tag=185):
    """Process to raylet: the arguments of its constructor are there."""

    actor_id: bytes
    dependencies: tuple[Dependency, ...]


class ActorRegistered(msgspec.Struct, array_like=True, tag=51):
    """Raylet to process; with an ``error``, it is not: as when its name is ``taken``."""

    actor_id: bytes
    error: str = ""
    taken: bool = False


class WatchActor(msgspec.Struct, array_like=True, tag=52):
    """Process to raylet: answered by `ActorState` when the version is newer than ``after``."""

    actor_id: bytes
    after: int


class ActorState(msgspec.Struct, array_like=True, tag=53):
    """Raylet to process: state is DEPENDENCIES_UNREADY, PENDING, ALIVE, RESTARTING or DEAD.

    ``cause``: of its death or its loss.
    """

    actor_id: bytes
    version: int
    state: str
    address: Address | None
    cause: Cause | None = None


class KillActor(msgspec.Struct, array_like=True, tag=54):
    """Process to raylet: end it."""

    actor_id: bytes
    cause: Cause
    no_restart: bool = True


class BecomeActor(msgspec.Struct, array_like=True, tag=55):
    """Raylet to a fresh worker: create this actor. Answered by `ActorCreated`."""

    spec: ActorSpec
    job: JobConfig
    devices: dict[str, list[str]] = {}


class ActorCreated(msgspec.Struct, array_like=True, tag=56):
    """Worker to raylet: its constructor ran, or did not end well, as ``cause`` tells.

    ``again``: it was not run after `ActorWaits`, and is to be run in a new process. ``shown``: what
    its own ``__repr__`` says.
    """

    actor_id: bytes
    cause: Cause | None = None
    again: bool = False
    shown: str = ""


class ActorWaits(msgspec.Struct, array_like=True, tag=180):
    """Worker to raylet: arguments of the constructor were lost; their makers may need what I have.

    Followed by `ActorCreated` when they are there again.
    """


class ExitWorker(msgspec.Struct, array_like=True, tag=57):
    """Raylet to worker: finish what runs and leave; ``actor_ended``: whatever it owns."""

    actor_ended: bool = False


class WorkerStays(msgspec.Struct, array_like=True, tag=154):
    """Worker to raylet, after `ExitWorker`: others still need values that this process owns."""


# --- the GCS, asked through the raylet --------------------------------------------------


class GcsRequest(msgspec.Struct, array_like=True, tag=60):
    """Process to raylet: pass ``body`` to that GCS method. Answered by `GcsReply`."""

    request_id: int
    method: str
    body: bytes


class GcsReply(msgspec.Struct, array_like=True, tag=61):
    """Raylet to process."""

    request_id: int
    body: bytes
    error: str = ""


class TasksRan(msgspec.Struct, array_like=True, tag=110):
    """Worker to raylet, once a second: tasks finished, failed and cancelled, by function."""

    counts: dict[str, tuple[Index, Index, Index]]


class NodeDied(msgspec.Struct, array_like=True, tag=150):
    """Raylet to its processes: that node is dead; connections to it may hang for ever."""

    node_id: bytes


Message = Union[  # noqa: UP007 - a union type, built once, not an annotation
    RegisterDriver, DriverRegistered, RegisterWorker, WorkerRegistered, Hello,
    RequestLease, LeaseGranted, LeaseSpilled, LeaseRefused, CancelLeaseRequest, ReturnLease,
    Backlog,
    ReclaimLeases, WorkerBlocked, WorkerUnblocked,
    PushTask, TaskDone, TasksReturned, HandoverDone, CancelTask,
    RequestValue, ValueReady, AddBorrower, BorrowerAdded, RemoveBorrower,
    CreateObject, ObjectCreated, SealObject, GetObject, ObjectPinned, UnpinObjects, FreeObjects,
    CreateActor, ActorRegistered, WatchActor, ActorState, KillActor, BecomeActor, ActorCreated,
    ActorWaits, ActorReady,
    ExitWorker, GcsRequest, GcsReply, OutputLines, NodeDied, TasksRan, WorkerStays,
    AskIdle, WorkerIdle, AskAssigned, Assigned, AskProcess, ProcessState,
    DiscardObject, RequestBuffer, BufferLent, ObjectWritten, ReturnBuffer, ReclaimBuffer,
    GeneratorItem, ItemsTaken, CancelObject,
    CopiesChanged, RequestLocations, Locations, KeepCopies, WorkerDied,
    OutputDisplay, TaskSays, NotebookAnswers,
    SchedulingWarning,
    TaskEvents, TellTasks, TasksTold, MetricsRecorded, ProcessLeaves,
    TellStacks, StacksTold,
    TellObjects, ObjectsTold,
    CreateGroup, WatchGroup, GroupState, RemoveGroup,
]  # fmt: skip
