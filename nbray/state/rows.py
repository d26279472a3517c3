"""The rows of the state API, with Ray's field names where Ray has the field.

Ids are hexadecimal text, resources amounts, times milliseconds since the epoch when their names
end with ``_ms``. A field with ``detail`` in its metadata is None unless details were asked for.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

_DETAIL = {"detail": True}


def _fields(kind: type[Row]) -> tuple[Field[Any], ...]:
    return fields(kind)  # type: ignore[arg-type]


class Row:
    """A row's fields are read as attributes or, as in Ray, as items."""

    @classmethod
    def columns(cls) -> set[str]:
        """The names of all fields."""
        return {one.name for one in _fields(cls)}

    @classmethod
    def detail_columns(cls) -> set[str]:
        """Those that are None unless details were asked for."""
        return {one.name for one in _fields(cls) if one.metadata.get("detail")}

    @classmethod
    def base_columns(cls) -> set[str]:
        """The others."""
        return cls.columns() - cls.detail_columns()

    @classmethod
    def filterable_columns(cls) -> set[str]:
        """Those that a filter may name: all."""
        return cls.columns()

    def asdict(self) -> dict[str, Any]:
        """The fields by name."""
        return {name: getattr(self, name) for name in (one.name for one in _fields(type(self)))}

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def get(self, name: str, default: Any = None) -> Any:
        """The field of that name, or ``default``.

        Args:
            name: a column.
            default: what is given when there is no such column.

        Returns:
            The field, or ``default``.
        """
        return getattr(self, name, default)


@dataclass
class NodeState(Row):
    """One node; ``node_name`` is its address, as in Ray; ``end_time_ms`` is 0 while it lives.

    ``state_message`` says of one that lives whether it drains or is silent; ``kept_by`` what keeps
    it from being idle, in words, and ``idle_s`` for how long nothing has. ``received_from`` has the
    bytes of objects that came from other nodes, by their ids.

    Examples:
        >>> nbray.util.state.list_nodes()[0].resources_total["CPU"]
        2.0
    """

    node_id: str
    node_ip: str
    is_head_node: bool
    state: str
    state_message: str | None
    node_name: str
    resources_total: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    resources_available: dict[str, float] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict)
    hostname: str = ""
    kept_by: list[str] = field(default_factory=list)
    idle_s: float = 0.0
    received_from: dict[str, int] = field(default_factory=dict)


@dataclass
class WorkerState(Row):
    """One worker or driver process; ``activity`` is IDLE, BUSY, ACTOR or DRIVER.

    Of one that has ended, ``exit_type`` is SYSTEM_ERROR, INTENDED_SYSTEM_EXIT, USER_ERROR,
    INTENDED_USER_EXIT or NODE_OUT_OF_MEMORY; ``end_time_ms`` is 0 of the others.

    Examples:
        >>> any(row.pid for row in nbray.util.state.list_workers())
        True
    """

    worker_id: str
    is_alive: bool
    worker_type: str
    exit_type: str | None
    node_id: str
    ip: str
    pid: int
    activity: str = ""
    job_id: str | None = None
    actor_id: str | None = None
    rss_bytes: int = 0
    cpu_percent: float = 0.0
    exit_detail: str | None = field(default=None, metadata=_DETAIL)
    worker_launch_time_ms: int | None = field(default=None, metadata=_DETAIL)
    worker_launched_time_ms: int | None = field(default=None, metadata=_DETAIL)
    start_time_ms: int | None = field(default=None, metadata=_DETAIL)
    end_time_ms: int | None = field(default=None, metadata=_DETAIL)
    debugger_port: int | None = field(default=None, metadata=_DETAIL)
    num_paused_threads: int | None = field(default=None, metadata=_DETAIL)


@dataclass
class ActorState(Row):
    """One actor; ``pending_reason`` says what it waits for while it is not alive yet.

    ``death_cause`` is Ray's: the name of a context with what it has; ``death_text`` is what
    people read. All restarts are counted by ``num_restarts``, whatever the reason; the other two
    counts and ``call_site`` are Ray's and say nothing here.

    Examples:
        >>> from nbray.util.state import ActorState
        >>> "pending_reason" in ActorState.columns()
        True
    """

    actor_id: str
    class_name: str
    state: str
    job_id: str
    name: str | None
    node_id: str | None
    pid: int | None
    ray_namespace: str | None
    serialized_runtime_env: str | None = field(default=None, metadata=_DETAIL)
    required_resources: dict[str, float] | None = field(default=None, metadata=_DETAIL)
    death_cause: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    is_detached: bool | None = field(default=None, metadata=_DETAIL)
    placement_group_id: str | None = field(default=None, metadata=_DETAIL)
    repr_name: str | None = field(default=None, metadata=_DETAIL)
    num_restarts: int | None = field(default=None, metadata=_DETAIL)
    worker_id: str | None = field(default=None, metadata=_DETAIL)
    start_time_ms: int | None = field(default=None, metadata=_DETAIL)
    pending_reason: str | None = None
    num_restarts_due_to_lineage_reconstruction: int | None = field(default=0, metadata=_DETAIL)
    num_restarts_due_to_node_preemption: int | None = field(default=0, metadata=_DETAIL)
    call_site: str | None = field(default=None, metadata=_DETAIL)
    label_selector: dict[str, str] | None = field(default=None, metadata=_DETAIL)
    fallback_strategy: dict[str, Any] | None = field(default=None, metadata=_DETAIL)

    @property
    def death_text(self) -> str:
        """Why it died, in words; empty while nothing is known of a death."""
        for context in (self.death_cause or {}).values():
            if isinstance(context, dict):
                for name in ("error_message", "formatted_exception_string"):
                    if text := context.get(name):
                        return str(text)
        return " ".join(f"{name}: {value}" for name, value in (self.death_cause or {}).items())


@dataclass
class DriverInfo:
    """Where a job's driver runs."""

    id: str
    node_ip_address: str
    pid: str


@dataclass
class JobState(Row):
    """One job: a driver's time in the cluster, or an entrypoint that was submitted.

    Examples:
        >>> nbray.util.state.list_jobs()[0]["status"]  # fields can be read as items
        'RUNNING'
    """

    type: str
    job_id: str | None
    submission_id: str | None
    driver_info: DriverInfo | None
    status: str
    entrypoint: str
    message: str | None = None
    error_type: str | None = None
    namespace: str = ""
    start_time: int | None = field(default=None, metadata=_DETAIL)
    end_time: int | None = field(default=None, metadata=_DETAIL)
    metadata: dict[str, str] | None = field(default=None, metadata=_DETAIL)
    runtime_env: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    driver_agent_http_address: str | None = field(default=None, metadata=_DETAIL)
    driver_node_id: str | None = field(default=None, metadata=_DETAIL)
    driver_exit_code: int | None = field(default=None, metadata=_DETAIL)


@dataclass
class DemandState(Row):
    """Requests of one resource shape that wait.

    Attributes:
        count: at least so many tasks or actors wait.
        waiting_s: since so many seconds.
        kind: "task" or "actor".
        node_id: the node whose raylet has them; None when they wait at the GCS.
        reason: why no node can ever serve them; None when they only wait for their turn.
        lacking: then, sentences on the nodes that could serve them, and what these lack now; or
            on what else is waited for, as for a worker to start.

    Examples:
        >>> from nbray.util.state import DemandState
        >>> "reason" in DemandState.columns()
        True
    """

    resources: dict[str, float]
    count: int
    waiting_s: float
    kind: str
    node_id: str | None
    reason: str | None
    lacking: list[str] = field(default_factory=list)


@dataclass
class FailureState(Row):
    """Something that ended although nobody meant it to; ``kind`` is worker, actor or node.

    Examples:
        >>> from nbray.util.state import FailureState
        >>> "cause" in FailureState.columns()
        True
    """

    kind: str
    id: str
    node_id: str | None
    name: str
    cause: str
    time_ms: int


@dataclass
class FunctionCount:
    """How often a function's tasks finished, failed and were cancelled, on all nodes."""

    name: str
    finished: int
    failed: int
    cancelled: int


@dataclass
class TaskTotals:
    """Exact counts of tasks since the cluster began."""

    finished: int
    failed: int
    cancelled: int
    functions: list[FunctionCount]


@dataclass
class TaskState(Row):
    """One attempt at a task or call, or at the constructor of an actor.

    ``state`` is PENDING_ARGS_AVAIL, PENDING_NODE_ASSIGNMENT, SUBMITTED_TO_WORKER,
    PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY (in the actor's queue), RUNNING, FINISHED or FAILED.
    ``origin`` is the driver's number for what submitted it (a notebook's cell), 0 for none.
    ``creation_time_ms``, ``required_resources``, ``label_selector`` and ``fallback_strategy`` are
    known of tasks that have not ended, or ran for 10 ms or longer. ``depends_on`` has the ids of
    the tasks whose results its arguments are or contain; what `put` made has an id of that kind,
    too. It has 64 at most, and ``depends_on_more`` says how many refs are beyond.

    Examples:
        >>> from nbray.util.state import TaskState
        >>> "error_type" in TaskState.columns()
        True
    """

    task_id: str
    attempt_number: int
    name: str
    state: str
    job_id: str
    actor_id: str | None
    type: str
    func_or_class_name: str
    parent_task_id: str | None
    node_id: str | None
    worker_id: str | None
    worker_pid: int | None
    error_type: str | None
    origin: int = 0
    language: str | None = field(default=None, metadata=_DETAIL)
    required_resources: dict[str, float] | None = field(default=None, metadata=_DETAIL)
    runtime_env_info: str | None = field(default=None, metadata=_DETAIL)
    placement_group_id: str | None = field(default=None, metadata=_DETAIL)
    events: list[dict[str, Any]] | None = field(default=None, metadata=_DETAIL)
    profiling_data: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    creation_time_ms: int | None = field(default=None, metadata=_DETAIL)
    start_time_ms: float | None = field(default=None, metadata=_DETAIL)
    end_time_ms: float | None = field(default=None, metadata=_DETAIL)
    task_log_info: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    error_message: str | None = field(default=None, metadata=_DETAIL)
    is_debugger_paused: bool | None = field(default=None, metadata=_DETAIL)
    call_site: str | None = field(default=None, metadata=_DETAIL)
    label_selector: dict[str, str] | None = field(default=None, metadata=_DETAIL)
    fallback_strategy: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    depends_on: list[str] = field(default_factory=list, metadata=_DETAIL)
    depends_on_more: int = field(default=0, metadata=_DETAIL)


@dataclass
class TaskList:
    """What the cluster knows of single tasks, in the order in which they came to be known.

    Attributes:
        unfinished: how many of each function have not ended: exact, also beyond the rows.
        dropped: how many ended that are not among the rows.
        missing: sentences on nodes that did not answer.
        silent: how many processes did not: what they run is known by its owners only.
    """

    rows: list[TaskState]
    unfinished: dict[str, int]
    dropped: int
    missing: list[str]
    silent: int = 0


@dataclass
class ObjectState(Row):
    """One object, as one process that owns or borrows it knows it.

    ``object_size`` is -1 while the value is not known. ``reference_type`` says what keeps it:
    LOCAL_REFERENCE (a ref of the process), USED_BY_PENDING_TASK, CAPTURED_IN_OBJECT (a ref inside
    another value), PINNED_IN_MEMORY (another process) or ACTOR_HANDLE. ``call_site`` is known of
    values in the object store, and of all with NBRAY_RECORD_REF_CREATION_SITES=1.

    Examples:
        >>> ref = nbray.put(1)
        >>> nbray.util.state.get_objects(ref.hex())[0].asdict()["is_owner"]
        True
    """

    object_id: str
    object_size: int
    task_status: str
    reference_type: str
    call_site: str
    type: str
    pid: int
    ip: str
    attempt_number: int = 0
    is_owner: bool = True
    local_ref_count: int = 0
    borrowers: int = 0
    node_ids: list[str] = field(default_factory=list)
    worker_id: str = ""
    node_id: str = ""
    kind: str = ""


@dataclass
class HolderState:
    """One process with what it owns, counted exactly."""

    worker_id: str
    node_id: str
    ip: str
    pid: int
    type: str
    owned: int
    owned_bytes: int


@dataclass
class ObjectList:
    """The largest objects of each process, largest first, and the processes that hold them."""

    rows: list[ObjectState]
    holders: list[HolderState]
    missing: list[str]


@dataclass
class PlacementGroupState(Row):
    """One placement group; ``reasons`` say why it waits.

    Examples:
        >>> from nbray.util.state import PlacementGroupState
        >>> "reasons" in PlacementGroupState.columns()
        True
    """

    placement_group_id: str
    name: str
    creator_job_id: str
    state: str
    strategy: str = "PACK"
    reasons: list[str] = field(default_factory=list)
    bundles: list[dict[str, Any]] | None = field(default=None, metadata=_DETAIL)
    is_detached: bool | None = field(default=None, metadata=_DETAIL)
    stats: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    topology_strategy: dict[str, str] | None = field(default_factory=dict, metadata=_DETAIL)
    topology_assignments: dict[str, str] | None = field(default_factory=dict, metadata=_DETAIL)
