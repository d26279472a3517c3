"""An error of a task is that of all its objects; when it is large, one of them has it for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbray.common.ids import return_id
from nbray.core_worker.values.serialization import serialize
from nbray.wire.records import TaskSpec, Value

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker
    from nbray.object_ref import ObjectRef


class SharedError:
    """Stands in an object for the error that ``ref`` has."""

    def __init__(self, ref: ObjectRef) -> None:
        self.ref = ref


def share(core: CoreWorker, spec: TaskSpec, index: int, error: Value) -> Value:
    """The error of a task's ``index``-th object, for others of its objects; at their owner."""
    if error.stored is None:
        return error
    object_id = return_id(spec.task_id, index)
    if core.table.get(object_id) is None:
        core.table.add_owned(object_id)
        core.released.append((object_id, -1))
    packed = serialize(SharedError(core.borrowed_ref(object_id, core.address)))
    return Value(packed.to_bytes(), None, True, packed.contained)
