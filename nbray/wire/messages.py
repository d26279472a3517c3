"""Every message that travels in frames between drivers, workers and raylets.

A frame is a batch: a MessagePack list of these structs (see :mod:`nbray.wire.frames`).
They are grouped by conversation; each docstring says who sends it, when, and what
comes back. Fields named ``*_id`` are raw bytes. Payloads named ``value``, ``args`` or
``error`` are the user's own pickles: only drivers and workers ever open them.
"""

from __future__ import annotations

from typing import Annotated, Union

import msgspec

from nbray.wire.strategies import ANYWHERE, GroupStrategy, InGroup, LabelTerm, Strategy

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
"""A number of bytes or units: a message in which it is negative is malformed."""
Index = Annotated[int, msgspec.Meta(ge=0, lt=(1 << 31) - 1)]
"""A count of things, or one's number, which fits into 32 bits."""


class Address(msgspec.Struct, array_like=True, frozen=True):
    """Where a driver or worker listens: Unix socket on its own node, TCP from others."""

    worker_id: bytes
    node_id: bytes
    unix_path: str
    host: str
    port: int


class ContainedRef(msgspec.Struct, array_like=True, frozen=True):
    """A ref that stands inside a value: the receiver becomes a borrower of it."""

    object_id: bytes
    owner: Address


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """A value that lies in the arena of the named nodes rather than in a message.

    ``kind`` says in a few words what it is.
    """

    size: Size
    node_ids: list[bytes]
    kind: str = ""


class Value(msgspec.Struct, array_like=True):
    """One object as it travels: inline bytes, or the place where it is stored."""

    inline: bytes | None
    stored: Stored | None = None
    is_error: bool = False
    contained: list[ContainedRef] = []


class Dependency(msgspec.Struct, array_like=True):
    """One ref argument of a task: always the ref, and its value when it is small."""

    object_id: bytes
    owner: Address
    value: Value | None = None


class TaskSpec(msgspec.Struct, array_like=True):
    """One task or actor call, as its owner pushes it to a worker.

    A negative ``num_returns`` is a stream (see `core_worker.streams`), whose worker may be at most
    ``backpressure`` items ahead (0: any number). After ``max_calls`` calls of a function its
    worker leaves (0: never). ``origin`` is the driver's number for what submitted it (a
    notebook's cell), 0 for none; what the task submits has the same.
    """

    task_id: bytes
    job_id: bytes
    function_id: bytes
    name: str
    args: bytes
    dependencies: list[Dependency] = []
    contained: list[ContainedRef] = []
    num_returns: int = 1
    actor_id: bytes = b""
    method: str = ""
    attempt: int = 0
    max_calls: int = 0
    backpressure: int = 0
    concurrency_group: str = ""
    origin: int = 0
    group: InGroup | None = None

    def return_count(self) -> int:
        """How many objects complete with the task; a stream has one, that of its end."""
        return self.num_returns if self.num_returns >= 0 else 1


class ActorOptions(msgspec.Struct, array_like=True):
    """What the creator of an actor asked for."""

    resources: dict[str, Size]
    name: str = ""
    namespace: str = ""
    detached: bool = False
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int = 0
    is_async: bool = False
    concurrency_groups: dict[str, int] = {}
    max_pending_calls: int = -1
    runtime_env: str = ""
    strategy: Strategy = ANYWHERE
    selector: tuple[LabelTerm, ...] = ()


class Parameter(msgspec.Struct, array_like=True, frozen=True):
    """One parameter of a method, with its ``kind`` as `inspect` numbers them."""

    name: str
    kind: int
    optional: bool = False


class MethodOptions(msgspec.Struct, array_like=True, frozen=True):
    """What `nbray.method` said of one method, its parameters without the instance, and whether
    its calls may overtake others of the same caller that wait for their arguments.

    ``max_task_retries`` None: the actor's. ``retry_exceptions``: pickled, False when empty.
    """

    num_returns: int = 1
    max_task_retries: int | None = None
    retry_exceptions: bytes = b""
    concurrency_group: str = ""
    backpressure: int = 0
    parameters: list[Parameter] = []
    out_of_order: bool = False


class ActorSpec(msgspec.Struct, array_like=True):
    """Everything that is needed to create an actor, also to create it again."""

    actor_id: bytes
    job_id: bytes
    class_name: str
    class_id: bytes
    class_pickle: bytes
    args: bytes
    dependencies: list[Dependency]
    contained: list[ContainedRef]
    methods: dict[str, MethodOptions]
    options: ActorOptions
    owner: Address
    origin: int = 0


class JobConfig(msgspec.Struct, array_like=True):
    """What a worker needs to know of the program that it works for."""

    job_id: bytes
    namespace: str
    driver: Address
    sys_path: list[str]
    working_dir: str


class BundleInfo(msgspec.Struct, array_like=True):
    """A bundle that a node holds: reserved, and in use once it is ``committed``."""

    group_id: bytes
    index: int
    total: dict[str, int]
    available: dict[str, int]
    committed: bool = False


class NodeInfo(msgspec.Struct, array_like=True):
    """A row of the node table; resources in units of 1/10000."""

    node_id: bytes
    host: str
    frame_port: int
    grpc_port: int
    hostname: str
    is_head: bool
    alive: bool
    total: dict[str, int]
    available: dict[str, int]
    stats: dict[str, float] = {}
    death_cause: str = ""
    labels: dict[str, str] = {}
    bundles: list[BundleInfo] = []


# --- registration: every process with its raylet ------------------------------------


class RegisterDriver(msgspec.Struct, array_like=True, tag=1):
    """Driver to raylet, first message. Answered by `DriverRegistered`."""

    address: Address
    pid: int
    namespace: str
    sys_path: list[str]
    working_dir: str
    entrypoint: str


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


# --- leases: a submitter and a raylet -------------------------------------------------


class RequestLease(msgspec.Struct, array_like=True, tag=10):
    """Submitter to raylet. Answered by one `LeaseGranted`, `LeaseSpilled` or `LeaseRefused`.

    ``near`` is the node where most bytes of the arguments lie, if that is another one.
    """

    request_id: int
    job: JobConfig
    resources: dict[str, Size]
    backlog: Size = 1
    spilled: bool = False
    retriable: bool = True
    runtime_env: str = ""
    strategy: Strategy = ANYWHERE
    selector: tuple[LabelTerm, ...] = ()
    near: bytes = b""


class LeaseGranted(msgspec.Struct, array_like=True, tag=11):
    """Raylet to submitter: this worker is yours until you return it.

    ``devices``: the ids of accelerators that come with it, by resource name.
    """

    request_id: int
    lease_id: int
    worker: Address
    devices: dict[str, list[str]] = {}


class LeaseSpilled(msgspec.Struct, array_like=True, tag=12):
    """Raylet to submitter: ask that raylet instead."""

    request_id: int
    node_id: bytes
    host: str
    port: int


class LeaseRefused(msgspec.Struct, array_like=True, tag=13):
    """Raylet to submitter: the request failed and why; ``kind`` names an exception of nbray."""

    request_id: int
    reason: str
    kind: str = ""


class CancelLeaseRequest(msgspec.Struct, array_like=True, tag=14):
    """Submitter to raylet: the request is not needed any more (a crossing grant is returned)."""

    request_id: int


class ReturnLease(msgspec.Struct, array_like=True, tag=15):
    """Submitter to raylet: the worker is free again; ``broken`` when its connection was lost."""

    lease_id: int
    broken: bool = False


class WorkerDied(msgspec.Struct, array_like=True, tag=149):
    """Raylet to whoever leased the worker: how it ended.

    ``out_of_memory``: the raylet ended it, since memory ran out; with ``retry`` what it ran is
    to be run again later, and else it failed.
    """

    worker_id: bytes
    cause: str
    out_of_memory: bool = False
    retry: bool = False


class ReclaimLeases(msgspec.Struct, array_like=True, tag=16):
    """Raylet to submitters: somebody waits; give back what is idle, and these once they are."""

    lease_ids: list[int] = []


class WorkerBlocked(msgspec.Struct, array_like=True, tag=17):
    """Worker to raylet: my task waits in get; my CPUs may be lent out meanwhile."""


class WorkerUnblocked(msgspec.Struct, array_like=True, tag=18):
    """Worker to raylet: it goes on."""


# --- tasks: a submitter and a worker --------------------------------------------------


class PushTask(msgspec.Struct, array_like=True, tag=20):
    """Submitter to worker. Answered by `TaskDone` or `TaskReturned`.

    ``function`` is the pickled function the first time it goes over a connection; ``devices``
    are those of the lease.
    """

    spec: TaskSpec
    function: bytes | None = None
    devices: dict[str, list[str]] | None = None


class TaskDone(msgspec.Struct, array_like=True, tag=21):
    """Worker to submitter: the values, how long it ran, and which argument refs it keeps.

    ``retry``: the function raised. ``items``: how many a stream had. ``leaving``: the worker takes
    no more tasks.
    """

    task_id: bytes
    values: list[Value]
    seconds: float
    borrowed: list[bytes] = []
    retry: bool = False
    items: Index = 0
    leaving: bool = False

    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self.retry or (bool(self.values) and self.values[0].is_error)


class TasksReturned(msgspec.Struct, array_like=True, tag=22):
    """Worker to submitter: not started, since a task before them blocks or is long."""

    task_ids: list[bytes]


class HandoverDone(msgspec.Struct, array_like=True, tag=23):
    """Submitter to worker: refs inside the task's values are registered; drop your hold."""

    task_id: bytes


class CancelTask(msgspec.Struct, array_like=True, tag=24):
    """Owner to worker: stop that task; ``force`` ends the process, ``recursive`` its children."""

    task_id: bytes
    force: bool = False
    recursive: bool = False


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


# --- ownership: a borrower and an owner -----------------------------------------------


class RequestValue(msgspec.Struct, array_like=True, tag=30):
    """Borrower to owner. Answered by `ValueReady` once the object is complete."""

    object_id: bytes


class ValueReady(msgspec.Struct, array_like=True, tag=31):
    """Owner to borrower; ``value`` is None when the owner does not know the object."""

    object_id: bytes
    value: Value | None


class AddBorrower(msgspec.Struct, array_like=True, tag=32):
    """To an owner: that worker holds the object too. Answered by `BorrowerAdded`."""

    object_id: bytes
    borrower: Address
    request_id: int = 0


class BorrowerAdded(msgspec.Struct, array_like=True, tag=33):
    """Owner: noted; the sender may drop its own hold."""

    request_id: int


class RemoveBorrower(msgspec.Struct, array_like=True, tag=34):
    """Borrower to owner: ``count`` registrations of mine are over."""

    object_id: bytes
    borrower_id: bytes
    count: int


# --- objects: a process and its raylet ------------------------------------------------


class CreateObject(msgspec.Struct, array_like=True, tag=40):
    """Process to raylet: room for an object of ``size`` bytes. Answered by `ObjectCreated`."""

    object_id: bytes
    size: Size
    owner: Address
    label: str = ""


class ObjectCreated(msgspec.Struct, array_like=True, tag=41):
    """Raylet to process: write at ``offset``, then seal; or ``error``, of a ``kind``.

    Kinds of errors of a store: "full" (the arena), "disk" (the disk is full), "lost".
    """

    object_id: bytes
    offset: Size
    error: str = ""
    kind: str = ""


class SealObject(msgspec.Struct, array_like=True, tag=42):
    """Process to raylet: the object is complete and may be read."""

    object_id: bytes


class GetObject(msgspec.Struct, array_like=True, tag=43):
    """Process to raylet: bring it here if needed and pin it. Answered by `ObjectPinned`."""

    object_id: bytes
    stored: Stored
    owner: Address


class ObjectPinned(msgspec.Struct, array_like=True, tag=44):
    """Raylet to process: it stays at ``offset`` until unpinned, of the arena or of ``path``.

    Or ``error``, of a ``kind`` as in `ObjectCreated`.
    """

    object_id: bytes
    offset: Size
    size: Size
    error: str = ""
    kind: str = ""
    path: str = ""


class UnpinObjects(msgspec.Struct, array_like=True, tag=45):
    """Process to raylet: one pin less for each."""

    object_ids: list[bytes]


class FreeObjects(msgspec.Struct, array_like=True, tag=46):
    """Owner to its raylet: nobody refers to them; every node forgets its copy.

    With ``maker``: only the copies that this worker made.
    """

    object_ids: list[bytes]
    node_ids: list[bytes] = []
    maker: bytes = b""


# --- room in advance: a process that puts many values, and its raylet -------------------


class RequestRoom(msgspec.Struct, array_like=True, tag=140):
    """Process to raylet: room for values that I am going to put. Answered by `RoomLent`."""


class RoomLent(msgspec.Struct, array_like=True, tag=141):
    """Raylet to process: ``size`` bytes from ``offset`` on are yours; none when it is scarce."""

    offset: Size
    size: Size


class ObjectWritten(msgspec.Struct, array_like=True, tag=142):
    """Process to raylet: a complete object, which I own, lies at ``offset`` of my room."""

    object_id: bytes
    offset: Size
    size: Size
    label: str = ""


class ReturnRoom(msgspec.Struct, array_like=True, tag=143):
    """Process to raylet: I do not need that part of my room."""

    offset: Size
    size: Size


class ReclaimRoom(msgspec.Struct, array_like=True, tag=144):
    """Raylet to processes: somebody waits; return your room."""


# --- where the copies of an object are ----------------------------------------------------


class CopiesChanged(msgspec.Struct, array_like=True, tag=145):
    """Raylet to owner: node ``node_id`` has copies of these objects, or has them no more.

    With ``maker``: that worker made them and has died. It may not have told the owner, who then
    never heard of them, and sends `FreeObjects`.
    """

    object_ids: list[bytes]
    node_id: bytes
    added: bool
    maker: bytes = b""


class RequestLocations(msgspec.Struct, array_like=True, tag=146):
    """Borrower to owner: no node of ``tried`` has it; who does? Answered by `Locations`.

    When every copy is lost, the answer comes when the value has been made again.
    """

    request_id: int
    object_id: bytes
    tried: list[bytes]


class Locations(msgspec.Struct, array_like=True, tag=147):
    """Owner to borrower: the value now; None when the owner does not know the object."""

    request_id: int
    value: Value | None


class KeepCopies(msgspec.Struct, array_like=True, tag=148):
    """Owner to its raylet: those of ``node_id`` are the only copies now; it must keep them."""

    object_ids: list[bytes]
    node_id: bytes


# --- actors: a process and its raylet, which speaks to the GCS --------------------------


class CreateActor(msgspec.Struct, array_like=True, tag=50):
    """Process to raylet. Answered by `ActorRegistered`."""

    spec: ActorSpec
    job: JobConfig


class ActorRegistered(msgspec.Struct, array_like=True, tag=51):
    """Raylet to process; ``error`` when the name is taken."""

    actor_id: bytes
    error: str = ""


class WatchActor(msgspec.Struct, array_like=True, tag=52):
    """Process to raylet: answered by `ActorState` when the version is newer than ``after``."""

    actor_id: bytes
    after: int


class ActorState(msgspec.Struct, array_like=True, tag=53):
    """Raylet to process: state is PENDING, ALIVE, RESTARTING or DEAD.

    ``death_kind`` names an exception of nbray when it is not `ActorDiedError`.
    """

    actor_id: bytes
    version: int
    state: str
    address: Address | None
    death_cause: str = ""
    death_kind: str = ""


class KillActor(msgspec.Struct, array_like=True, tag=54):
    """Process to raylet: end it; ``out_of_scope`` when its last handle went."""

    actor_id: bytes
    no_restart: bool = True
    out_of_scope: bool = False
    cause: str = ""


class BecomeActor(msgspec.Struct, array_like=True, tag=55):
    """Raylet to a fresh worker: create this actor. Answered by `ActorCreated`."""

    spec: ActorSpec
    job: JobConfig
    devices: dict[str, list[str]] = {}


class ActorCreated(msgspec.Struct, array_like=True, tag=56):
    """Worker to raylet: its constructor ran, or raised, as ``error_text`` tells."""

    actor_id: bytes
    error_text: str = ""


class ExitWorker(msgspec.Struct, array_like=True, tag=57):
    """Raylet to worker: finish what runs and leave."""


class AskAssigned(msgspec.Struct, array_like=True, tag=165):
    """Worker to raylet. Answered by `Assigned`."""

    request_id: int


class Assigned(msgspec.Struct, array_like=True, tag=166):
    """Raylet to worker: the resources of its lease, in units of 1/10000."""

    request_id: int
    resources: dict[str, int]


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
    """Worker to raylet, about once a second: tasks finished and failed since, by function."""

    counts: dict[str, tuple[Index, Index]]


class NodeDied(msgspec.Struct, array_like=True, tag=150):
    """Raylet to its processes: that node is dead; connections to it may hang for ever."""

    node_id: bytes


# --- output -----------------------------------------------------------------------------


class OutputSource(msgspec.Struct, array_like=True, frozen=True):
    """Where output comes from: the task, its submission's ``origin``, and the worker."""

    task_id: bytes
    name: str
    origin: int
    node_id: bytes
    pid: int
    log: str


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


# --- scheduling -------------------------------------------------------------------------


class SchedulingWarning(msgspec.Struct, array_like=True, tag=130):
    """Raylet to the process that asked, or to a job's driver: what waits, and why."""

    text: str


# --- placement groups: a process and its raylet, which speaks to the GCS ------------------


class BundleSpec(msgspec.Struct, array_like=True):
    """What one bundle reserves, and on which nodes it may be."""

    resources: dict[str, Size]
    selector: tuple[LabelTerm, ...] = ()


class GroupSpec(msgspec.Struct, array_like=True):
    """A placement group as it was asked for; ``creator`` is the actor that did, if one did."""

    group_id: bytes
    bundles: list[BundleSpec]
    strategy: GroupStrategy
    job: JobConfig
    name: str = ""
    namespace: str = ""
    detached: bool = False
    creator: bytes = b""
    soft_target: bytes = b""


class CreateGroup(msgspec.Struct, array_like=True, tag=131):
    """Process to raylet. Answered by `GroupState`, at once if the name is taken."""

    spec: GroupSpec


class WatchGroup(msgspec.Struct, array_like=True, tag=132):
    """Process to raylet: answered by `GroupState` when it is created or removed."""

    group_id: bytes


class GroupState(msgspec.Struct, array_like=True, tag=133):
    """Raylet to process: PENDING (the GCS knows it), CREATED, REMOVED; or its ``error``."""

    group_id: bytes
    state: str
    error: str = ""


class RemoveGroup(msgspec.Struct, array_like=True, tag=134):
    """Process to raylet; what was asked before is done before."""

    group_id: bytes


# --- task events ------------------------------------------------------------------------


class TaskEvent(msgspec.Struct, array_like=True):
    """One attempt at a task, as a process knows it; times in seconds since the epoch, 0 unknown.

    ``state`` is one of Ray's names (`nbray.state.rows.TaskState`). ``started`` and ``ended`` are
    of the worker that ran it; ``created``, ``parent`` and ``resources`` only its owner knows.
    """

    task_id: bytes
    attempt: int
    name: str
    job_id: bytes
    actor_id: bytes
    origin: int
    state: str
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    parent: bytes = b""
    error_type: str = ""
    error_text: str = ""
    resources: dict[str, int] = {}


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


# --- what objects processes hold --------------------------------------------------------


class TellObjects(msgspec.Struct, array_like=True, tag=159):
    """Raylet to its processes: which objects do you hold? Answered by `ObjectsTold`."""

    request_id: int
    limit: Index


class ObjectRow(msgspec.Struct, array_like=True):
    """One object, as a process that owns or borrows it knows it.

    ``size`` is -1 while the value is not known; ``kind`` says in a few words what it is.
    """

    object_id: bytes
    owned: bool
    size: int
    reference_type: str
    task_status: str
    call_site: str
    local_refs: int
    borrowers: int
    node_ids: list[bytes]
    kind: str


class ObjectsTold(msgspec.Struct, array_like=True, tag=160):
    """Process to raylet: the largest; ``owned`` and ``owned_bytes`` count all that it owns."""

    request_id: int
    rows: list[ObjectRow]
    owned: Index = 0
    owned_bytes: Size = 0


# --- the user's metrics -----------------------------------------------------------------


class MetricRow(msgspec.Struct, array_like=True):
    """One series; ``kind`` is counter, gauge or histogram.

    ``value`` is what a counter or the sum of a histogram grew by, or what a gauge is (None: no
    value any more); ``counts`` is how many values fell below each of ``boundaries`` and above.
    """

    kind: str
    name: str
    description: str
    tags: dict[str, str]
    value: float | None
    boundaries: list[float]
    counts: list[int]


class MetricsRecorded(msgspec.Struct, array_like=True, tag=158):
    """Worker or driver to raylet, in batches: what was recorded since the last one."""

    rows: list[MetricRow]


Message = Union[  # noqa: UP007 - a union type, built once, not an annotation
    RegisterDriver, DriverRegistered, RegisterWorker, WorkerRegistered, Hello,
    RequestLease, LeaseGranted, LeaseSpilled, LeaseRefused, CancelLeaseRequest, ReturnLease,
    ReclaimLeases, WorkerBlocked, WorkerUnblocked,
    PushTask, TaskDone, TasksReturned, HandoverDone, CancelTask,
    RequestValue, ValueReady, AddBorrower, BorrowerAdded, RemoveBorrower,
    CreateObject, ObjectCreated, SealObject, GetObject, ObjectPinned, UnpinObjects, FreeObjects,
    CreateActor, ActorRegistered, WatchActor, ActorState, KillActor, BecomeActor, ActorCreated,
    ExitWorker, GcsRequest, GcsReply, OutputLines, NodeDied, TasksRan, WorkerStays,
    AskAssigned, Assigned,
    RequestRoom, RoomLent, ObjectWritten, ReturnRoom, ReclaimRoom,
    GeneratorItem, ItemsTaken, CancelObject,
    CopiesChanged, RequestLocations, Locations, KeepCopies, WorkerDied,
    OutputDisplay,
    SchedulingWarning,
    TaskEvents, TellTasks, TasksTold, MetricsRecorded,
    TellObjects, ObjectsTold,
    CreateGroup, WatchGroup, GroupState, RemoveGroup,
]  # fmt: skip
