"""The messages of the state API: what raylets tell the GCS of their load, and what is asked.

Times are seconds since the epoch, durations seconds, resources units of 1/10000.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from nbray.wire.records import Index, MetricRow, ObjectRow, TaskEvent
from nbray.wire.strategies import ANYWHERE, Selectors, Strategy


class WaitingShape(msgspec.Struct, array_like=True):
    """Requests of one resource shape that wait at one raylet, oldest since ``waiting_s``.

    ``count`` is what the submitters knew when they asked: at least so many tasks wait. ``why``,
    when they have their resources and wait for something else.
    """

    resources: dict[str, int]
    count: int
    waiting_s: float
    for_actor: bool = False
    strategy: Strategy = ANYWHERE
    selector: Selectors = ()
    why: str = ""


class NodeLoad(msgspec.Struct, array_like=True):
    """A raylet's part of every report to the GCS.

    ``counts``: tasks finished, failed and cancelled on the node since it began, by function name.
    ``actors``: what the actors wait for that are to start here, or the first of them.
    """

    waiting: list[WaitingShape]
    counts: dict[str, tuple[int, int, int]] = {}
    actors: dict[bytes, str] = {}


class DemandRow(msgspec.Struct, array_like=True):
    """Requests of one shape that wait; ``reason`` when no node can ever serve them.

    ``lacking``, when some can: sentences on what these lack now.

    ``node_id`` is the raylet where they wait; empty for actors that wait at the GCS.
    """

    resources: dict[str, int]
    count: int
    waiting_s: float
    for_actor: bool
    node_id: bytes
    reason: str = ""
    strategy: Strategy = ANYWHERE
    selector: Selectors = ()
    lacking: list[str] = []


class Demand(msgspec.Struct, array_like=True):
    """GCS, answer to ``Demand``: everything that waits for resources."""

    rows: list[DemandRow]


class ActorRow(msgspec.Struct, array_like=True):
    """One actor, alive or dead; ``waits_for`` says why it is not alive yet, on node ``placing``.

    ``shown`` is what its own ``__repr__`` says, ``group_id`` its placement group, if it has them.
    ``death_kind``, as a `CauseKind`, is of why it is dead or was started again.
    """

    actor_id: bytes
    job_id: bytes
    class_name: str
    name: str
    namespace: str
    detached: bool
    state: str
    node_id: bytes
    worker_id: bytes
    pid: int
    restarts: int
    resources: dict[str, int]
    death_cause: str
    started: float
    waits_for: str = ""
    placing: bytes = b""
    shown: str = ""
    group_id: bytes = b""
    runtime_env: str = ""
    death_kind: str = ""
    host: str = ""
    owner_id: bytes = b""
    owner_host: str = ""
    selector: Selectors = ()


class Actors(msgspec.Struct, array_like=True):
    """GCS, answer to ``ListActors``."""

    rows: list[ActorRow]


class JobRow(msgspec.Struct, array_like=True):
    """One driver's time in the cluster; ``ended`` is 0 while it runs.

    ``driver_id`` is the driver's worker id.
    """

    job_id: bytes
    namespace: str
    entrypoint: str
    pid: int
    node_id: bytes
    host: str
    started: float
    ended: float = 0.0
    state: str = "RUNNING"
    driver_id: bytes = b""
    metadata: dict[str, str] = {}


class Jobs(msgspec.Struct, array_like=True):
    """GCS, answer to ``ListJobs``: all that run, and the newest that ended."""

    rows: list[JobRow]


class WorkerRow(msgspec.Struct, array_like=True):
    """One worker or driver; state is IDLE, BUSY (leased), ACTOR or DRIVER.

    One that has ``ended`` (else 0) says how, and what it was.
    """

    worker_id: bytes
    node_id: bytes
    host: str
    pid: int
    state: str
    job_id: bytes
    actor_id: bytes
    rss_bytes: int
    started: float
    ended: float = 0.0
    exit_type: str = ""
    exit_detail: str = ""
    cpu_percent: float = 0.0


class Workers(msgspec.Struct, array_like=True):
    """Raylet or GCS, answer to ``ListWorkers``: those that live, and the newest that ended.

    ``unreachable``: nodes that did not answer, whose workers are missing.
    """

    rows: list[WorkerRow]
    unreachable: list[bytes] = []


class Failure(msgspec.Struct, array_like=True):
    """Something that ended although nobody meant it to; kind is worker, actor or node."""

    kind: str
    entity_id: bytes
    node_id: bytes
    name: str
    cause: str
    when: Annotated[float, msgspec.Meta(ge=0, le=1e11)]  # seconds since the epoch


class Failures(msgspec.Struct, array_like=True):
    """GCS, answer to ``RecentFailures``, the newest last."""

    rows: list[Failure]


class FunctionCounts(msgspec.Struct, array_like=True):
    """Tasks of one function on all nodes since the cluster began."""

    name: str
    finished: int
    failed: int
    cancelled: int


class TaskTotals(msgspec.Struct, array_like=True):
    """GCS, answer to ``TaskTotals``."""

    finished: int
    failed: int
    cancelled: int
    functions: list[FunctionCounts]


class DashboardAddress(msgspec.Struct, array_like=True):
    """Dashboard to GCS (``SetDashboard``), and the answer to ``GetDashboard``; "" is none.

    ``cluster`` names the cluster, as the keys of its dashboard do.
    """

    url: str
    cluster: str = ""


class TasksRequest(msgspec.Struct, array_like=True):
    """``ListTasks``, to the GCS and on to raylets: of a job, an origin, ended after ``since``.

    At most ``limit`` of the unfinished of each process, and of the ended of each kind and node.
    With ``of``: only tasks whose ids begin so, or which such a task has submitted; of an actor,
    the calls of it.
    """

    limit: Index
    job_id: bytes = b""
    origin: int = 0
    since: float = 0.0
    of: bytes = b""


class TaskSource(msgspec.Struct, array_like=True):
    """The process that told of a task."""

    node_id: bytes
    worker_id: bytes
    pid: int


class Tasks(msgspec.Struct, array_like=True):
    """Raylet or GCS, answer to ``ListTasks``.

    ``rows`` may tell of a task more than once: its owner, its worker, and its end.

    Attributes:
        rows: each with the index of its source.
        unfinished: how many have not ended, by function, exactly.
        dropped: how many ended that no row tells of any more, or ever did.
        silent: how many processes did not answer in time.
        unreachable: the nodes that did not.
    """

    sources: list[TaskSource]
    rows: list[tuple[int, TaskEvent]]
    unfinished: dict[str, int] = {}
    dropped: int = 0
    silent: int = 0
    unreachable: list[bytes] = []


class NodeMetrics(msgspec.Struct, array_like=True):
    """Raylet, answer to ``Metrics``; ``dropped`` records were left out."""

    node_id: bytes
    rows: list[MetricRow]
    dropped: int = 0


class Metrics(msgspec.Struct, array_like=True):
    """GCS, answer to ``Metrics``: of each node that answered."""

    nodes: list[NodeMetrics]


class ObjectsRequest(msgspec.Struct, array_like=True):
    """``ListObjects``, to the GCS and on to raylets: the ``limit`` largest of each process."""

    limit: Index


class Holder(msgspec.Struct, array_like=True):
    """A process and the objects that it owns or borrows; ``owned`` counts also what has no row."""

    node_id: bytes
    host: str
    worker_id: bytes
    pid: int
    is_driver: bool
    rows: list[ObjectRow]
    owned: int
    owned_bytes: int


class Objects(msgspec.Struct, array_like=True):
    """Raylet or GCS, answer to ``ListObjects``; ``silent`` as in `Tasks`."""

    holders: list[Holder]
    silent: int = 0
    unreachable: list[bytes] = []


class ProfileRequest(msgspec.Struct, array_like=True):
    """To GCS and raylet: ``Profile``, what a process of a node does. Answered by `Profile`.

    ``seconds`` is 0 for one look; ``memory``: what it allocates meanwhile; ``working``: only where
    the user's code is, at a small cost, in milliseconds.
    """

    node_id: bytes
    worker_id: bytes
    seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    memory: bool = False
    working: bool = False


class Profile(msgspec.Struct, array_like=True):
    """Answer to ``Profile``: counts of stacks, as in `StacksTold`; ``how`` they were found."""

    counts: dict[str, int]
    how: str
    error: str = ""


class LogsRequest(msgspec.Struct, array_like=True):
    """To GCS and raylet: ``ListLogs`` of a node, whose names match a pattern. By `LogFiles`."""

    node_id: bytes
    pattern: str = "*"


class LogFiles(msgspec.Struct, array_like=True):
    """Answer to ``ListLogs``: sizes in bytes by name."""

    sizes: dict[str, int]


class ReadLog(msgspec.Struct, array_like=True):
    """To GCS and raylet: a part of a log. Answered by `LogPart`.

    What comes after ``offset``, or if that is negative the last ``lines`` lines; of both, at most
    ``most_bytes``.
    """

    node_id: bytes
    name: str
    offset: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)] = -1
    lines: Index = 1000
    most_bytes: Annotated[int, msgspec.Meta(ge=0, le=4 << 20)] = 1 << 20


class LogPart(msgspec.Struct, array_like=True):
    """Answer to ``ReadLog``: ``data`` ends at ``offset`` of the log; ``missing``: there is none.

    ``end`` is where all of the log ended then: who wants what there is and no more stops there.
    """

    data: bytes
    offset: int
    missing: bool = False
    end: int = 0
