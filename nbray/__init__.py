"""nbray: a cluster for a notebook, with Ray's programming model."""

from __future__ import annotations

from typing import Any

from nbray import exceptions
from nbray.actor import ActorClass, ActorHandle, method
from nbray.api import (
    cancel,
    get,
    get_actor,
    kill,
    put,
    remote,
    wait,
)
from nbray.cluster import available_resources, cluster_resources, nodes, timeline
from nbray.common.ids import (
    ActorID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)
from nbray.core_worker.streams import DynamicObjectRefGenerator, ObjectRefGenerator
from nbray.driver import init, is_initialized, shutdown
from nbray.object_ref import ObjectRef
from nbray.remote_function import RemoteFunction
from nbray.runtime_context import get_gpu_ids, get_runtime_context

__version__ = "0.1.0"

__all__ = [
    "ActorClass", "ActorHandle", "ActorID", "DynamicObjectRefGenerator", "JobID", "NodeID",
    "ObjectID", "ObjectRef", "ObjectRefGenerator", "PlacementGroupID", "RemoteFunction", "TaskID",
    "UniqueID", "WorkerID", "__version__", "available_resources", "cancel", "cluster_resources",
    "exceptions",
    "get", "get_actor", "get_gpu_ids", "get_runtime_context", "init", "is_initialized", "kill",
    "method", "nodes", "put", "remote", "shutdown", "timeline", "wait",
]  # fmt: skip


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext nbray``: the magics."""
    from nbray.jupyter_ext import load_ipython_extension as load

    load(ipython)
