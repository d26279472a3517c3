"""The rows of the state API, what can be asked and its limits, at Ray's path."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from nbray.state.events import ClusterEventState
from nbray.state.rows import (
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    TaskState,
    WorkerState,
)
from nbray.state.runtime_envs import RuntimeEnvState
from nbray.state.selecting import DEFAULT_LIMIT, MAX_LIMIT, Filter

DEFAULT_RPC_TIMEOUT = 30
DEFAULT_LOG_LIMIT = 1000
RAY_MAX_LIMIT_FROM_API_SERVER = MAX_LIMIT


class StateResource(Enum):
    """What `StateApiClient` lists."""

    ACTORS = "actors"
    JOBS = "jobs"
    PLACEMENT_GROUPS = "placement_groups"
    NODES = "nodes"
    WORKERS = "workers"
    TASKS = "tasks"
    OBJECTS = "objects"
    RUNTIME_ENVS = "runtime_envs"
    CLUSTER_EVENTS = "cluster_events"


class SummaryResource(Enum):
    """What `StateApiClient` counts."""

    ACTORS = "actors"
    TASKS = "tasks"
    OBJECTS = "objects"


@dataclass
class GetApiOptions:
    """How one thing is asked for; ``timeout`` in seconds, of which Ray's API server has a part."""

    timeout: int = DEFAULT_RPC_TIMEOUT
    server_timeout_multiplier: float = 0.8


@dataclass
class SummaryApiOptions:
    """How things are counted; the others than ``timeout`` have no effect, as nothing asks them."""

    timeout: int = DEFAULT_RPC_TIMEOUT
    server_timeout_multiplier: float = 0.8
    filters: list[Filter] | None = field(default_factory=list)
    summary_by: str | None = None


@dataclass
class ListApiOptions:
    """Which rows are wanted, as for `list_nodes`; a driver's own task is not among them here."""

    limit: int = DEFAULT_LIMIT
    timeout: int = DEFAULT_RPC_TIMEOUT
    detail: bool = False
    filters: list[Filter] | None = field(default_factory=list)
    exclude_driver: bool = True
    server_timeout_multiplier: float = 0.8


__all__ = [
    "DEFAULT_LIMIT",
    "DEFAULT_LOG_LIMIT",
    "DEFAULT_RPC_TIMEOUT",
    "RAY_MAX_LIMIT_FROM_API_SERVER",
    "ActorState",
    "ClusterEventState",
    "GetApiOptions",
    "JobState",
    "ListApiOptions",
    "NodeState",
    "ObjectState",
    "PlacementGroupState",
    "RuntimeEnvState",
    "StateResource",
    "SummaryApiOptions",
    "SummaryResource",
    "TaskState",
    "WorkerState",
]
