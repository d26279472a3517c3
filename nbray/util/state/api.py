"""The functions of the state API, at Ray's path."""

from nbray.state.details import (
    get_actor,
    get_job,
    get_node,
    get_objects,
    get_placement_group,
    get_task,
    get_worker,
)
from nbray.state.events import list_cluster_events
from nbray.state.lists import (
    list_actors,
    list_demand,
    list_failures,
    list_jobs,
    list_nodes,
    list_objects,
    list_placement_groups,
    list_tasks,
    list_workers,
)
from nbray.state.logs import (
    get_log,
    list_logs,
)
from nbray.state.runtime_envs import list_runtime_envs
from nbray.state.summaries import summarize_actors, summarize_objects, summarize_tasks
from nbray.util.state.client import StateApiClient

__all__ = [
    "StateApiClient",
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_demand",
    "list_failures",
    "list_jobs",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_runtime_envs",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]
