"""`StateApiClient`: the functions of the state API as one object, which some programs use."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import Any

from nbray.state import details, lists, summaries
from nbray.state.events import list_cluster_events
from nbray.state.runtime_envs import list_runtime_envs
from nbray.util.state.common import (
    GetApiOptions,
    ListApiOptions,
    StateResource,
    SummaryApiOptions,
    SummaryResource,
)

_LISTS: dict[StateResource, Callable[..., builtins.list[Any]]] = {
    StateResource.ACTORS: lists.list_actors,
    StateResource.CLUSTER_EVENTS: list_cluster_events,
    StateResource.JOBS: lists.list_jobs,
    StateResource.NODES: lists.list_nodes,
    StateResource.OBJECTS: lists.list_objects,
    StateResource.PLACEMENT_GROUPS: lists.list_placement_groups,
    StateResource.RUNTIME_ENVS: list_runtime_envs,
    StateResource.TASKS: lists.list_tasks,
    StateResource.WORKERS: lists.list_workers,
}
_GETS: dict[StateResource, Callable[..., Any]] = {
    StateResource.ACTORS: details.get_actor,
    StateResource.JOBS: details.get_job,
    StateResource.NODES: details.get_node,
    StateResource.OBJECTS: details.get_objects,
    StateResource.PLACEMENT_GROUPS: details.get_placement_group,
    StateResource.TASKS: details.get_task,
    StateResource.WORKERS: details.get_worker,
}
_SUMMARIES: dict[SummaryResource, Callable[..., dict[str, Any]]] = {
    SummaryResource.ACTORS: summaries.summarize_actors,
    SummaryResource.OBJECTS: summaries.summarize_objects,
    SummaryResource.TASKS: summaries.summarize_tasks,
}


class StateApiClient:
    """Asks one cluster for lists, single rows and counts.

    Args:
        address: the GCS; the cluster of this process, or the newest here, by default.
        cookies: taken for Ray's sake: no HTTP is spoken here.
        headers: the same.

    Examples:
        >>> from nbray.util.state import StateApiClient
        >>> from nbray.util.state.common import ListApiOptions, StateResource
        >>> client = StateApiClient()
        >>> alive = ListApiOptions(filters=[("state", "=", "ALIVE")])
        >>> len(client.list(StateResource.NODES, alive, raise_on_missing_output=False))
        1
    """

    def __init__(
        self,
        address: str | None = None,
        cookies: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        del cookies, headers
        self._address = address

    def list(
        self, resource: StateResource, options: ListApiOptions, raise_on_missing_output: bool,
        _explain: bool = False,
    ) -> builtins.list[Any]:  # fmt: skip
        """Rows of things.

        Args:
            resource: of which kind.
            options: which rows are wanted.
            raise_on_missing_output: False takes what there is when a node does not answer.
            _explain: warn when rows were left out for the limit.

        Returns:
            The rows.

        Raises:
            StateApiException: as of `list_nodes`.
        """
        return _LISTS[resource](
            address=self._address, filters=options.filters, limit=options.limit,
            timeout=options.timeout, detail=options.detail,
            raise_on_missing_output=raise_on_missing_output, _explain=_explain,
        )  # fmt: skip

    def get(
        self,
        resource: StateResource,
        id: str,
        options: GetApiOptions | None = None,
        _explain: bool = False,
    ) -> Any:
        """The row of one thing, with details.

        Args:
            resource: of which kind.
            id: its id, or the first characters of it.
            options: how it is asked for.
            _explain: has no effect.

        Returns:
            The row; None when there is none; of objects, and of tasks that ran more than once,
            a list.

        Raises:
            ValueError: things of that kind have no ids. StateApiException: as of `get_node`.
        """
        if resource not in _GETS:
            raise ValueError(f"Can't get {resource.name} by an id: list them.")
        timeout = (options or GetApiOptions()).timeout
        return _GETS[resource](id, address=self._address, timeout=timeout)

    def summary(
        self, resource: SummaryResource, *, options: SummaryApiOptions | None = None,
        raise_on_missing_output: bool = True, _explain: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Counts of things.

        Args:
            resource: of which kind.
            options: how they are counted.
            raise_on_missing_output: False takes what there is when a node does not answer.
            _explain: has no effect.

        Returns:
            Ray's dict, as of `summarize_tasks`.

        Raises:
            StateApiException: the cluster, or one of its nodes, did not answer.
        """
        timeout = (options or SummaryApiOptions()).timeout
        return _SUMMARIES[resource](
            address=self._address, timeout=timeout, raise_on_missing_output=raise_on_missing_output
        )
