"""The cluster's file of a cluster whose nodes are jobs, out of a few options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbray.slurm.script import JobSettings, read_settings, task_memory

TYPE = "job"
"""The type of its nodes."""

SETTINGS = JobSettings.__struct_fields__
"""The options that say how jobs are."""


def node_resources(
    cpus: float | None = None,
    gpus: float | None = None,
    memory: float | None = None,
    object_store_memory: float | None = None,
    others: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """What a node has whose job has so much; without CPUs said, one.

    Raises:
        ValueError: the object store is larger than the job.
    """
    resources: dict[str, float] = {"CPU": 1 if cpus is None else cpus, **(others or {})}
    if gpus is not None:
        resources["GPU"] = gpus
    if object_store_memory is not None:
        resources["object_store_memory"] = object_store_memory
    if memory is not None:
        store = object_store_memory
        left = task_memory(int(memory)) if store is None else memory - store
        if left <= 0:
            raise ValueError(
                f"A job of {int(memory)} bytes of memory has no room for an object store of "
                f"{int(store or 0)} and for tasks: raise memory."
            )
        resources["memory"] = left
    return resources


def document(
    name: str,
    jobs: tuple[int, int],
    resources: Mapping[str, float],
    labels: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The file of a cluster with at least and at most so many jobs.

    Args:
        name: of the cluster.
        jobs: the fewest and the most.
        resources: of each node.
        labels: of each node.
        settings: how jobs are, by the names of `JobSettings`.

    Raises:
        ValueError: a setting cannot be.
    """
    read_settings(settings)
    node_type = {
        "resources": dict(resources), "labels": dict(labels),
        "min_workers": jobs[0], "max_workers": jobs[1],
    }  # fmt: skip
    return {
        "cluster_name": name,
        "provider": {"type": "slurm", **settings},
        "max_workers": jobs[1],
        "available_node_types": {TYPE: node_type},
    }
