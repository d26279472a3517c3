"""A task, or a call of an actor, from its submission to its end, as its owner sees it.

The life of both is one table. A state costs one look-up in a dict where it changes, and no story:
that of a task which went wrong is in the state API.
"""

from __future__ import annotations

from collections.abc import Sized
from enum import StrEnum
from typing import Protocol

import msgspec
from msgspec.structs import replace

from nbray.common.ids import FIRST, TaskID, handle_id
from nbray.common.life import Transitions
from nbray.core_worker.task_options import QueueKey, TaskOptions
from nbray.exceptions import TaskCancelledError
from nbray.object_ref import ObjectRef
from nbray.wire.records import Address, ContainedRefs, Dependency, TaskSpec, ids_in
from nbray.wire.strategies import InGroup


class State(StrEnum):
    """How far a task is."""

    WAITING = "waiting for its arguments"
    QUEUED = "queued"
    PUSHED = "pushed"
    IN_DOUBT = "in doubt"  # its worker or actor is out of touch, and it is not known what became
    BACKING_OFF = "backing off"
    ENDED = "ended"


class Event(StrEnum):
    """What happens to a task."""

    READY = "ready"  # its arguments are there
    BEREFT = "bereft"  # arguments are there no more
    PUSHED = "pushed"
    RETURNED = "returned"  # it did not begin, or is to begin again
    DOUBTED = "doubted"
    BACKED_OFF = "put off"
    ENDED = "ended"
    RECALLED = "recalled"  # its value was lost, and is made again


_S, _E = State, Event
TRANSITIONS: Transitions[State, Event] = Transitions(
    "A task",
    {
        (_S.WAITING, _E.READY): _S.QUEUED,
        (_S.WAITING, _E.ENDED): _S.ENDED,
        (_S.QUEUED, _E.BEREFT): _S.WAITING,
        (_S.QUEUED, _E.PUSHED): _S.PUSHED,
        (_S.QUEUED, _E.ENDED): _S.ENDED,
        (_S.PUSHED, _E.BEREFT): _S.WAITING,
        (_S.PUSHED, _E.RETURNED): _S.QUEUED,
        (_S.PUSHED, _E.DOUBTED): _S.IN_DOUBT,
        (_S.PUSHED, _E.ENDED): _S.ENDED,
        (_S.IN_DOUBT, _E.RETURNED): _S.QUEUED,
        (_S.IN_DOUBT, _E.BACKED_OFF): _S.BACKING_OFF,
        (_S.IN_DOUBT, _E.ENDED): _S.ENDED,
        (_S.BACKING_OFF, _E.READY): _S.QUEUED,
        (_S.BACKING_OFF, _E.ENDED): _S.ENDED,
        (_S.ENDED, _E.RECALLED): _S.WAITING,
    },
    begins=[_S.WAITING],
    ends=(),
)
READY, BEREFT, PUSHED = (
    TRANSITIONS.on(_E.READY),
    TRANSITIONS.on(_E.BEREFT),
    TRANSITIONS.on(_E.PUSHED),
)
RETURNED, DOUBTED = TRANSITIONS.on(_E.RETURNED), TRANSITIONS.on(_E.DOUBTED)
BACKED_OFF, ENDED = TRANSITIONS.on(_E.BACKED_OFF), TRANSITIONS.on(_E.ENDED)
RECALLED = TRANSITIONS.on(_E.RECALLED)
WAITING, QUEUED, AT_WORKER = _S.WAITING, _S.QUEUED, _S.PUSHED
IN_DOUBT, GONE = _S.IN_DOUBT, _S.ENDED
_SHOWN = {
    _S.WAITING: "PENDING_ARGS_AVAIL", _S.QUEUED: "PENDING_NODE_ASSIGNMENT",
    _S.BACKING_OFF: "PENDING_NODE_ASSIGNMENT",
}  # fmt: skip


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


class Burst(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What the tasks have in common that one place submits of one function: they share it.

    Attributes:
        function: what they run; as long as one may run, what the function captures is held.
        parent: the task that submits them; empty for a driver.
    """

    function: PickledFunction
    name: str
    options: TaskOptions
    job_id: bytes
    origin: int
    parent: bytes
    group: InGroup | None


class Pending(msgspec.Struct, eq=False, gc=False):
    """A task or a call whose reply has not come.

    The collector does not know it: what leads back to it, a lease or a client, forgets it when it
    ends.

    Attributes:
        retries: how often it may still be run again; -1 for ever.
        unresolved: how many of its arguments are not complete yet.
        submitted: when, by `time.monotonic`.
    """

    retries: int
    state: State = WAITING
    unresolved: int = 0
    submitted: float = 0.0

    def recall(self) -> None:
        """It has ended, and is run once more for a value that was lost."""
        self.state = RECALLED[self.state]
        self.unresolved = 0

    def shown_state(self) -> str:
        """How far it is, by Ray's name."""
        return _SHOWN.get(self.state, "SUBMITTED_TO_WORKER")


class Rare(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What few tasks have.

    Attributes:
        attempt: how many attempts there were before.
        killed: its worker is ended for it.
        cancelled: it was cancelled when a worker had it; it is not given to another.
        out_of_memory: how often it was ended since memory ran out.
        near: the other node where most of its arguments lie; empty for none.
    """

    attempt: int = 0
    killed: bool = False
    cancelled: bool = False
    out_of_memory: int = 0
    near: bytes = b""


_NOTHING_RARE = Rare()


class PendingTask(Pending, eq=False, gc=False, kw_only=True):
    """A task for any worker. A million may be queued, so only what is its own stands in it.

    Attributes:
        first: the id of its first object, which begins with its own.
        lease: the worker that has it.
        built: its spec, from when a worker is to get it.
    """

    first: bytes
    args: bytes
    burst: Burst
    dependencies: tuple[Dependency, ...] = ()
    contained: tuple[ContainedRefs, ...] = ()
    lease: Lease | None = None
    built: TaskSpec | None = None
    rare: Rare = _NOTHING_RARE

    @property
    def task_id(self) -> bytes:
        """Its own id."""
        return self.first[:24]

    @property
    def spec(self) -> TaskSpec:
        """The task as a worker gets it."""
        return self.built or self.build()

    def build(self) -> TaskSpec:
        """Make its spec, which is not kept."""
        burst = self.burst
        options = burst.options
        return TaskSpec(
            self.first[:24], burst.job_id, burst.function.id, burst.name, self.args,
            self.dependencies, self.contained, options.num_returns, b"", "", self.rare.attempt,
            options.max_calls, options.backpressure, "", burst.origin, burst.group, burst.parent,
        )  # fmt: skip

    @property
    def options(self) -> TaskOptions:
        """What the options of the call came to."""
        return self.burst.options

    @property
    def key(self) -> QueueKey:
        """The queue that it stands in."""
        options, near = self.burst.options, self.rare.near
        return (options.shape, options.runtime_env, near) if near else options.key

    def recall(self) -> None:
        """It has ended, and is run once more, by any worker."""
        super().recall()
        self.rest()

    def next_attempt(self) -> None:
        """The one before has come to nothing."""
        self.rare = replace(self.rare, attempt=self.rare.attempt + 1)
        self.built = None

    def again(self) -> None:
        """It is run once more, which counts."""
        if self.retries > 0:
            self.retries -= 1
        self.next_attempt()

    def rest(self) -> None:
        """It has ended, and is kept: what can be made anew goes."""
        self.lease = self.built = None


class ActorCall(Pending, eq=False, gc=False, kw_only=True):
    """A call of an actor.

    Attributes:
        number: tells in which order the calls of this process are.
        cancelled: it was cancelled when the actor had it; it is not made again.
    """

    spec: TaskSpec
    options: TaskOptions
    number: int = 0
    cancelled: bool = False

    @property
    def first(self) -> bytes:
        """Its first object."""
        return self.spec.task_id + FIRST

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        """Its ref arguments."""
        return self.spec.dependencies

    def again(self) -> None:
        """It is made once more, which counts."""
        if self.retries > 0:
            self.retries -= 1
        self.spec.attempt += 1

    def rest(self) -> None:
        """It has ended, and is kept: nothing of it can be made anew."""


class HasLeases(Protocol):
    """A queue of tasks, as its leases know it (`submit.queues.TaskQueue`)."""

    leases: list[Lease]
    requests: dict[int, bytes]
    once: bool
    seconds: float

    @property
    def tasks(self) -> Sized:
        """Those that wait for a worker."""

    def ran(self, seconds: float) -> None:
        """A task of it has run for so long."""


class Lease:
    """A worker that this process may use now.

    Attributes:
        raylet: the node whose raylet granted it; empty once that has ended.
        wanted: others wait for it: it is given back as soon as nothing is left for it to do.
        leaving: it gets no more tasks, and is given back when it has answered for all it got.
        worn: its process ends then.
    """

    __slots__ = (
        "devices", "idle_since", "in_flight", "lease_id", "leaving", "queue", "raylet", "threads",
        "wanted", "worker", "worn",
    )  # fmt: skip

    def __init__(
        self, lease_id: int, worker: Address, raylet: bytes, devices: dict[str, list[str]] | None,
        threads: int, queue: HasLeases, now: float, wanted: bool,
    ) -> None:  # fmt: skip
        self.queue = queue
        self.lease_id = lease_id
        self.worker = worker
        self.raylet = raylet
        self.in_flight: dict[bytes, PendingTask] = {}
        self.idle_since = now
        self.wanted = wanted
        self.leaving = False
        self.worn = False
        self.devices = devices
        self.threads = threads


def counted(spec: TaskSpec) -> list[bytes]:
    """What a task holds while it runs, once for each time that it stands here."""
    object_ids = [dependency.object_id for dependency in spec.dependencies]
    object_ids += ids_in(spec.contained)
    if spec.actor_id:
        object_ids.append(handle_id(spec.actor_id))
    return object_ids


def cancelled(spec: TaskSpec) -> TaskCancelledError:
    """What a task ends with that was cancelled before it began."""
    return TaskCancelledError.of(TaskID(spec.task_id), spec.name)
