"""The names of `import nbray`, which gets them at their first use.

The cluster's own processes are modules of nbray, too, and start without them. This module knows
all that a program may name; nothing of nbray but its head imports it.
"""

from __future__ import annotations

from nbray import exceptions
from nbray.calls.actor import ActorClass, method
from nbray.calls.api import (
    cancel,
    get,
    get_actor,
    kill,
    put,
    remote,
    wait,
)
from nbray.calls.handles import ActorHandle
from nbray.calls.remote_function import RemoteFunction
from nbray.calls.runtime_context import get_gpu_ids, get_runtime_context
from nbray.common.ids import (
    ActorID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)
from nbray.common.software import VERSION
from nbray.core_worker.values.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from nbray.driver.cluster import available_resources, cluster_resources, nodes, timeline
from nbray.driver.driver import init, is_initialized, shutdown
from nbray.driver.logging_config import LoggingConfig
from nbray.object_ref import ObjectRef

__version__ = VERSION
ObjectID = ObjectRef  # as in Ray

__all__ = [
    "ActorClass", "ActorHandle", "ActorID", "DynamicObjectRefGenerator", "JobID",
    "LoggingConfig", "NodeID",
    "ObjectID", "ObjectRef", "ObjectRefGenerator", "PlacementGroupID", "RemoteFunction", "TaskID",
    "UniqueID", "WorkerID", "__version__", "available_resources", "cancel", "cluster_resources",
    "exceptions",
    "get", "get_actor", "get_gpu_ids", "get_runtime_context", "init", "is_initialized", "kill",
    "method", "nodes", "put", "remote", "shutdown", "timeline", "wait",
]  # fmt: skip
