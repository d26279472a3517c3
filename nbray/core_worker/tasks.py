"""Tasks without a reply, the leases that they are pushed to, and the queues where they wait."""

from __future__ import annotations

from collections import deque

from nbray.common.thread_count import threads_for
from nbray.core_worker.task_options import TaskOptions
from nbray.object_ref import ObjectRef
from nbray.wire.connection import Connection
from nbray.wire.records import Address, TaskSpec
from nbray.wire.strategies import Shape, Spread

WINDOW_S = 0.005
_MAX_WINDOW = 512


class PickledFunction:
    """A function as it is sent to workers.

    Attributes:
        id: the hash of its pickle, 16 bytes.
        data: the pickle.
        captured: the refs that stand in it, which are held here.
    """

    __slots__ = ("captured", "data", "id")

    def __init__(self, function_id: bytes, data: bytes, captured: tuple[ObjectRef, ...]) -> None:
        self.id = function_id
        self.data = data
        self.captured = captured


class PendingTask:
    """A task whose reply has not come.

    Attributes:
        cancelled: it was cancelled when a worker had it; it is not given to another.
        function: what it runs; as long as the task may run, what the function captures is held.
        retries: how often it may still be run again; -1 for ever.
        unresolved: how many of its arguments are not complete yet.
        out_of_memory: how often it was ended since memory ran out.
        submitted: when, by `time.monotonic`.
    """

    __slots__ = (
        "cancelled", "function", "key", "killed", "lease", "options", "out_of_memory",
        "retries", "spec", "submitted", "unresolved",
    )  # fmt: skip

    def __init__(self, spec: TaskSpec, function: PickledFunction, options: TaskOptions) -> None:
        self.spec = spec
        self.function = function
        self.options = options
        self.key: QueueKey = (options.shape, options.runtime_env, b"")
        self.retries = options.retries
        self.unresolved = 0
        self.killed = False
        self.cancelled = False
        self.out_of_memory = 0
        self.submitted = 0.0
        self.lease: Lease | None = None

    def state(self) -> str:
        """How far it is, by Ray's name."""
        if self.lease is not None:
            return "SUBMITTED_TO_WORKER"
        return "PENDING_ARGS_AVAIL" if self.unresolved else "PENDING_NODE_ASSIGNMENT"


class Lease:
    """A worker that this process may use now.

    Attributes:
        leaving: it gets no more tasks, and is given back when it has answered for all it got.
        worn: its process ends then.
    """

    __slots__ = (
        "connection", "devices", "idle_since", "in_flight", "lease_id", "leaving", "raylet",
        "threads", "worker", "worn",
    )  # fmt: skip

    def __init__(
        self, lease_id: int, worker: Address, connection: Connection, raylet: Connection
    ) -> None:
        self.lease_id = lease_id
        self.worker = worker
        self.connection = connection
        self.raylet = raylet
        self.in_flight: dict[bytes, PendingTask] = {}
        self.idle_since = 0.0
        self.leaving = False
        self.worn = False
        self.devices: dict[str, list[str]] | None = None
        self.threads = 1


QueueKey = tuple[Shape, str, bytes]


class TaskQueue:
    """What waits and the leases of one shape, environment, and node where arguments lie, if any."""

    __slots__ = (
        "key", "leases", "near", "once", "requests", "runtime_env", "seconds", "shape", "tasks",
        "threads",
    )  # fmt: skip

    def __init__(self, key: QueueKey) -> None:
        self.key = key
        self.shape, self.runtime_env, self.near = key
        self.threads = threads_for(dict(self.shape.resources))
        self.once = isinstance(self.shape.strategy, Spread)
        self.tasks: deque[PendingTask] = deque()
        self.leases: list[Lease] = []
        self.requests: dict[int, Connection] = {}
        self.seconds = -1.0

    def window(self) -> int:
        """How many tasks a worker may have at once."""
        if self.seconds < 0 or self.once:
            return 1
        return max(1, min(_MAX_WINDOW, int(WINDOW_S / max(self.seconds, 1e-6))))
