"""``ray._raylet``: ids, refs and generators."""

from nbray.common.ids import (
    ActorID,
    BaseID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)
from nbray.core_worker.values.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from nbray.object_ref import ObjectRef

ObjectID = ObjectRef
StreamingObjectRefGenerator = ObjectRefGenerator

__all__ = [
    "ActorID",
    "BaseID",
    "DynamicObjectRefGenerator",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "StreamingObjectRefGenerator",
    "TaskID",
    "UniqueID",
    "WorkerID",
]
