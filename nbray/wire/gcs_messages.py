"""The messages of the gRPC services: raylet to GCS, and GCS to raylet."""

from __future__ import annotations

import os

import msgspec

from nbray.wire.causes import Cause
from nbray.wire.group_messages import GroupState
from nbray.wire.records import (
    ActorSpec,
    Address,
    BundleInfo,
    Dependency,
    GroupSpec,
    JobConfig,
    MethodOptions,
    NodeInfo,
)
from nbray.wire.state_messages import NodeLoad


class Report(msgspec.Struct, array_like=True):
    """Raylet to GCS, every period: its row and load. Answered by `Reported`."""

    node: NodeInfo
    load: NodeLoad | None = None


class Reported(msgspec.Struct, array_like=True):
    """GCS to raylet: when it should report again, at the latest and at the soonest.

    ``rejected`` tells a raylet that was declared dead to leave; ``grows``: there is an autoscaler.
    """

    period_s: float
    soonest_s: float
    rejected: bool = False
    grows: bool = False


class Nodes(msgspec.Struct, array_like=True):
    """The node table, and what one has seen who has it, as of `NodeChanges`."""

    nodes: list[NodeInfo]
    epoch: bytes = b""
    members: int = 0
    rooms: int = 0


class WatchNodes(msgspec.Struct, array_like=True):
    """Raylet to GCS: answered by `NodeChanges` once there is something that it has not seen.

    ``epoch`` and the versions are those of its last answer; see `nbray.gcs.nodes.view`.
    """

    node_id: bytes
    epoch: bytes = b""
    members: int = 0
    rooms: int = 0


class NodeRoom(msgspec.Struct, array_like=True):
    """What is free on a node."""

    node_id: bytes
    available: dict[str, int]
    returning: dict[str, int]
    bundles: list[BundleInfo]


class NodeChanges(msgspec.Struct, array_like=True):
    """GCS to raylet: rows that are new or dead, and what is free on others.

    ``complete``: the rows are all that are alive.
    """

    epoch: bytes
    members: int
    rooms: int
    nodes: list[NodeInfo] = []
    room: list[NodeRoom] = []
    complete: bool = False


class Empty(msgspec.Struct, array_like=True):
    """Nothing to say."""


class RegisterJob(msgspec.Struct, array_like=True):
    """Raylet to GCS: a driver came. Answered by `JobId`."""

    driver: Address
    namespace: str
    entrypoint: str
    pid: int
    metadata: dict[str, str] = {}


class JobId(msgspec.Struct, array_like=True):
    """A job, by its 4 bytes."""

    job_id: bytes


class CreateActorRequest(msgspec.Struct, array_like=True):
    """Raylet to GCS, for a driver or worker. Answered by `Outcome`.

    ``waits``: for arguments of its constructor; `ActorReadyRequest` follows.
    """

    spec: ActorSpec
    job: JobConfig
    waits: bool = False


class ActorReadyRequest(msgspec.Struct, array_like=True):
    """Raylet to GCS: the arguments are there, and these are all. Answered by `Empty`."""

    actor_id: bytes
    dependencies: tuple[Dependency, ...]


class Outcome(msgspec.Struct, array_like=True):
    """Empty text: done; ``taken``: the name is another's."""

    error: str = ""
    taken: bool = False


NAME_CHANGED = "name changed"
"""What `NameChanged` is told as."""


class NameChanged(msgspec.Struct, array_like=True):
    """GCS to the raylets of its machine, unasked: an actor has a name, or nobody has it any more.

    ``name`` is an encoded `NamedActor`, ``found`` the encoded `FoundActor`, empty for nobody.
    """

    name: bytes
    found: bytes


class WaitActor(msgspec.Struct, array_like=True):
    """Raylet to GCS: answered by `ActorState` once its version is newer than ``after``."""

    actor_id: bytes
    after: int


class KillActorRequest(msgspec.Struct, array_like=True):
    """Raylet to GCS. Answered by `Empty`. A request that is repeated is done once.

    ``request_id``: eight random bytes, by which it is known again; none: it is not repeated.
    ``graceful``: the process may run what its user wants run at the end.
    """

    actor_id: bytes
    no_restart: bool
    cause: Cause
    request_id: bytes = b""
    graceful: bool = False


class WorkerDied(msgspec.Struct, array_like=True):
    """Raylet to GCS: the process of that attempt at an actor ended, and how.

    Without an actor: a worker that had created actors.
    """

    worker_id: bytes
    cause: Cause
    actor_id: bytes = b""
    attempt: int = 0


class NamedActor(msgspec.Struct, array_like=True):
    """Anybody to GCS: who has that name? Answered by `FoundActor`."""

    name: str
    namespace: str


class FoundActor(msgspec.Struct, array_like=True):
    """The actor of a name; an empty id when there is none."""

    actor_id: bytes
    class_name: str = ""
    methods: dict[str, MethodOptions] = {}
    max_task_retries: int = 0
    max_pending_calls: int = -1


class StartActor(msgspec.Struct, array_like=True):
    """GCS to raylet: give it a worker and create it. Answered by `ActorStarted`.

    For one attempt there is one process, however often the raylet is asked.
    ``wait_s``: for how long it may wait for resources there; ``waited_s``: it has waited before.
    """

    spec: ActorSpec
    job: JobConfig
    attempt: int = 0
    wait_s: float = 1.0
    waited_s: float = 0.0


class ActorStarted(msgspec.Struct, array_like=True):
    """Raylet to GCS: where it lives, or why it does not. ``busy``: no resources were free."""

    address: Address | None
    cause: Cause | None = None
    pid: int = 0
    busy: bool = False
    shown: str = ""


class EndActor(msgspec.Struct, array_like=True):
    """GCS to raylet: end the process of that attempt at an actor, or do not start it."""

    actor_id: bytes
    attempt: int
    cause: Cause
    graceful: bool = False


class ActorHere(msgspec.Struct, array_like=True):
    """An attempt at an actor on a node, being started or alive, or how it ``ended``."""

    actor_id: bytes
    attempt: int
    ended: Cause | None = None


class ActorsHere(msgspec.Struct, array_like=True):
    """Raylet to GCS, answer to ``ActorsHere``."""

    rows: list[ActorHere]


# --- the key-value space --------------------------------------------------------------------


def request_id() -> bytes:
    """Random bytes by which a request is known again: what is repeated is done once."""
    return os.urandom(12)


class KvPut(msgspec.Struct, array_like=True):
    """Anybody to GCS. Answered by `KvCount`: 1 when the key is new."""

    namespace: bytes
    key: bytes
    value: bytes
    overwrite: bool = True
    request_id: bytes = msgspec.field(default_factory=request_id)


class KvKey(msgspec.Struct, array_like=True):
    """Anybody to GCS: ``KvGet`` (by `KvValue`) and ``KvExists`` (by `KvCount`).

    Also ``KvKeys``, where the key is a prefix.
    """

    namespace: bytes
    key: bytes


class KvDel(msgspec.Struct, array_like=True):
    """Anybody to GCS: delete a key, or all that begin so. Answered by `KvCount`."""

    namespace: bytes
    key: bytes
    is_prefix: bool = False
    request_id: bytes = msgspec.field(default_factory=request_id)


class KvValue(msgspec.Struct, array_like=True):
    """The value of a key; None when there is none."""

    value: bytes | None


class KvCount(msgspec.Struct, array_like=True):
    """How many keys were added, deleted or found."""

    count: int


class KvKeys(msgspec.Struct, array_like=True):
    """The keys of a namespace that begin with the prefix."""

    keys: list[bytes]


class KvMany(msgspec.Struct, array_like=True):
    """Anybody to GCS: ``KvGetMany``, answered by `KvValues`."""

    namespace: bytes
    keys: list[bytes]


class KvValues(msgspec.Struct, array_like=True):
    """The values of keys in their order, None for those that there are not."""

    values: list[bytes | None]


PACKAGES = b"runtime_env"
"""The namespace of the packages of runtime environments, and of functions that set workers up."""


class UsePackage(msgspec.Struct, array_like=True):
    """Anybody to GCS: a job uses a package of so many bytes. Answered by `KvCount`: if it is there.

    While the job lives, it stays.
    """

    uri: bytes
    job_id: bytes
    size: int
    namespace: bytes = PACKAGES


class WarnJob(msgspec.Struct, array_like=True):
    """GCS to a driver's raylet: show this to the user. Answered by `Empty`.

    ``origin`` is that of what it is about.
    """

    job_id: bytes
    text: str
    origin: int = 0


# --- placement groups ------------------------------------------------------------------------


class ChangeGroups(msgspec.Struct, array_like=True):
    """Raylet to GCS: register and remove these, in this order. Answered by `GroupStates`."""

    create: list[GroupSpec]
    remove: list[bytes] = []


class WaitGroups(msgspec.Struct, array_like=True):
    """Raylet to GCS: answered by `GroupStates` of those that are decided, once any is."""

    group_ids: list[bytes]


class GroupStates(msgspec.Struct, array_like=True):
    """GCS to raylet."""

    states: list[GroupState]


class BundleKey(msgspec.Struct, array_like=True, frozen=True):
    """Which bundle."""

    group_id: bytes
    index: int


class BundleRequest(msgspec.Struct, array_like=True):
    """One bundle that a node is to reserve; ``commit``: it may be used at once."""

    key: BundleKey
    resources: dict[str, int]
    commit: bool


class ChangeBundles(msgspec.Struct, array_like=True):
    """GCS to raylet: release, commit, then reserve. Answered by `BundlesChanged`.

    Of a group all bundles are reserved, or none. The node keeps room that becomes free for a group
    of ``patient``, which has waited for long, when it has none for it.
    """

    release: list[BundleKey] = []
    commit: list[BundleKey] = []
    reserve: list[BundleRequest] = []
    patient: list[bytes] = []


class BundlesChanged(msgspec.Struct, array_like=True):
    """Raylet to GCS: the groups that had no room, and what the node has now."""

    refused: list[bytes]
    available: dict[str, int]
    bundles: list[BundleInfo]


class GroupRow(msgspec.Struct, array_like=True):
    """A placement group as the GCS shows it: PENDING, CREATED, REMOVED or RESCHEDULING, and where.

    ``attempts`` counts how often a place was looked for, ``stage`` is Ray's word for how that went,
    and ``reasons`` say why it waits; ``placed_s`` is how long it took until it was created,
    ``chosen_s`` how much of that since a place was first looked for.
    """

    spec: GroupSpec
    state: str
    placed: dict[int, bytes]
    created: float
    reasons: list[str] = []
    attempts: int = 0
    stage: str = "QUEUED"
    placed_s: float = 0.0
    chosen_s: float = 0.0


class NamedGroup(msgspec.Struct, array_like=True):
    """Anybody to GCS: the groups of that id, or of that name. Answered by `Groups`."""

    group_id: bytes = b""
    name: str = ""
    namespace: str = ""


class Groups(msgspec.Struct, array_like=True):
    """Rows of the table of groups."""

    rows: list[GroupRow]
