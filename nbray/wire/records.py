"""What messages carry: the records that several of them share.

Fields named ``*_id`` are raw bytes. Payloads named ``value``, ``args`` or ``error`` are the
user's own pickles: only drivers and workers ever open them.

A million of some of these wait in a process at once. So what is mostly empty in them is a tuple,
which costs nothing then, and they are not known to the garbage collector (``gc=False``): they hold
nothing that could lead back to them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

import msgspec

from nbray.wire.strategies import ANYWHERE, GroupStrategy, InGroup, LabelTerm, Selectors, Strategy

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


"""A number of bytes or units: a message in which it is negative is malformed."""


Index = Annotated[int, msgspec.Meta(ge=0, lt=(1 << 31) - 1)]


"""A count of things, or one's number, which fits into 32 bits."""


class Address(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a driver or worker listens: Unix socket on its own node, TCP from others."""

    worker_id: bytes
    node_id: bytes
    unix_path: str
    host: str
    port: int


class ContainedRefs(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Refs of one owner, one behind the other in a value: the receiver becomes their borrower."""

    owner: Address
    object_ids: tuple[bytes, ...]


def ids_in(contained: tuple[ContainedRefs, ...]) -> tuple[bytes, ...]:
    """The objects whose refs stand in a value, in their order."""
    if not contained:
        return ()
    if len(contained) == 1:
        return contained[0].object_ids
    return tuple([object_id for refs in contained for object_id in refs.object_ids])


class Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A value that lies in the arena of the named nodes rather than in a message.

    ``kind`` says in a few words what it is.
    """

    size: Size
    node_ids: tuple[bytes, ...]
    kind: str = ""


_known: Any = lru_cache(1024)(lambda made: made)
"""What equals it and came first."""


def thinned(stored: Stored, node_ids: tuple[bytes, ...] | None = None) -> Stored:
    """The same for keeping, perhaps on other nodes: what says the same stands once in this process.

    Of many results of one function, most have the same size, and all do on a few nodes.
    """
    nodes = tuple(map(_known, stored.node_ids if node_ids is None else node_ids))
    made: Stored = _known(Stored(stored.size, _known(nodes), _known(stored.kind)))
    return made


class Value(msgspec.Struct, array_like=True, gc=False):
    """One object as it travels: inline bytes, or the place where it is stored."""

    inline: bytes | None
    stored: Stored | None = None
    is_error: bool = False
    contained: tuple[ContainedRefs, ...] = ()


class Dependency(msgspec.Struct, array_like=True, gc=False):
    """One ref argument of a task: always the ref, and its value when it is small.

    ``place`` is the number or the name of the argument.
    """

    object_id: bytes
    owner: Address
    value: Value | None = None
    place: Index | str = 0


STREAMING = -1
DYNAMIC = -2


class TaskSpec(msgspec.Struct, array_like=True, gc=False):
    """One task or actor call, as its owner pushes it to a worker.

    A ``num_returns`` of STREAMING is a stream (see `own.streams`), whose worker may be at most
    ``backpressure`` items ahead (0: any number). After ``max_calls`` calls of a function its
    worker leaves (0: never). ``origin`` is the driver's number for what submitted it (a
    notebook's cell), 0 for none; what the task submits has the same. ``parent`` is the task that
    submitted it, empty for a driver.
    """

    task_id: bytes
    job_id: bytes
    function_id: bytes
    name: str
    args: bytes
    dependencies: tuple[Dependency, ...] = ()
    contained: tuple[ContainedRefs, ...] = ()
    num_returns: int = 1
    actor_id: bytes = b""
    method: str = ""
    attempt: int = 0
    max_calls: int = 0
    backpressure: int = 0
    concurrency_group: str = ""
    origin: int = 0
    group: InGroup | None = None
    parent: bytes = b""

    def return_count(self) -> int:
        """How many objects complete with the task; a stream has one, that of its end."""
        return self.num_returns if self.num_returns >= 0 else 1


class ActorOptions(msgspec.Struct, array_like=True):
    """What the creator of an actor asked for.

    ``placing`` is what its node must have in all, when that is more than its ``resources``.
    """

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
    selector: Selectors = ()
    placing: dict[str, Size] = {}


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
    class_pickle: bytes
    args: bytes
    dependencies: tuple[Dependency, ...]
    contained: tuple[ContainedRefs, ...]
    methods: dict[str, MethodOptions]
    options: ActorOptions
    owner: Address
    origin: int = 0


class JobConfig(msgspec.Struct, array_like=True):
    """What a worker needs to know of the program that it works for.

    ``ray_name``: ``import ray`` is nbray there; see `nbray.compat`. ``detached``: actors are, if
    they do not say.
    """

    job_id: bytes
    namespace: str
    driver: Address
    sys_path: list[str]
    working_dir: str
    logging: str = ""
    ray_name: bool = False
    detached: bool = False


class BundleInfo(msgspec.Struct, array_like=True):
    """A bundle that a node holds: reserved, and in use once it is ``committed``."""

    group_id: bytes
    index: int
    total: dict[str, int]
    available: dict[str, int]
    committed: bool = False


class LocalProcess(msgspec.Struct, array_like=True, frozen=True):
    """A process, for those who see its pid: see `nbray.common.pids`."""

    machine: str
    pid: int
    started: int


class NodeInfo(msgspec.Struct, array_like=True):
    """A row of the node table; resources in units of 1/10000.

    ``returning`` is what tasks hold that come back soon when they are asked for. ``silent_s``, told
    by the GCS, is how long ago the node was heard of; ``started`` and ``ended`` when it came and
    went, in seconds since the epoch. ``draining``: why it takes no new work and is going to leave.
    ``kept_by``: what keeps it from being idle, in words; nothing has for ``idle_s`` seconds.
    ``received_from``: bytes of objects that came from other nodes, of those that gave the most.
    """

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
    returning: dict[str, int] = {}
    process: LocalProcess | None = None
    silent_s: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    draining: str = ""
    kept_by: list[str] = []
    idle_s: float = 0.0
    received_from: dict[bytes, int] = {}

    @property
    def takes_work(self) -> bool:
        """Whether something new may be placed there."""
        return self.alive and not self.draining


class OutputSource(msgspec.Struct, array_like=True, frozen=True):
    """Where output comes from: the task, its submission's ``origin``, and the worker."""

    task_id: bytes
    name: str
    origin: int
    node_id: bytes
    pid: int
    log: str


class BundleSpec(msgspec.Struct, array_like=True):
    """What one bundle reserves, and on which nodes it may be."""

    resources: dict[str, Size]
    selector: tuple[LabelTerm, ...] = ()


class GroupSpec(msgspec.Struct, array_like=True):
    """A placement group as it was asked for; ``creator`` is the actor that did, if one did.

    ``origin`` is that of whoever asked, as of a task.
    """

    group_id: bytes
    bundles: list[BundleSpec]
    strategy: GroupStrategy
    job: JobConfig
    name: str = ""
    namespace: str = ""
    detached: bool = False
    creator: bytes = b""
    soft_target: bytes = b""
    origin: int = 0


class TaskEvent(msgspec.Struct, array_like=True):
    """One attempt at a task, as a process knows it; times in seconds since the epoch, 0 unknown.

    ``state`` is one of Ray's names (`nbray.state.rows.TaskState`). ``started`` and ``ended`` are
    of the worker that ran it, which knows the ``function``, and how the task is ``shown`` if not by
    its name; ``created``, ``resources`` and ``selector`` only its owner knows, whose word on a task
    that ended in a worker has no ``state``. ``out_end`` and ``err_end``, of one that failed in a
    worker, are the places in its logs where it ended. ``needs`` has the ids of those whose results
    its arguments are or contain, one after the other, but for ``needs_more`` of them.
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
    function: str = ""
    shown: str = ""
    out_end: int = 0
    err_end: int = 0
    needs: bytes = b""
    needs_more: int = 0
    selector: Selectors = ()


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
