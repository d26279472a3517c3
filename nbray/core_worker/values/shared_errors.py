"""An error of a task is that of all its objects; when it is large, one of them has it for all."""

from __future__ import annotations

from collections.abc import Callable

from nbray.common.ids import return_id
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.values.serialization import serialize
from nbray.object_ref import ObjectRef
from nbray.wire.records import Address, TaskSpec, Value


class SharedError:
    """Stands in an object for the error that ``ref`` has."""

    def __init__(self, ref: ObjectRef) -> None:
        self.ref = ref


class SharedErrors:
    """Makes them, at the owner of the objects; ``borrowed_ref`` makes refs."""

    def __init__(
        self, me: Identity, table: OwnershipTable,
        borrowed_ref: Callable[[bytes, Address], ObjectRef],
    ) -> None:  # fmt: skip
        self._me = me
        self._table = table
        self._borrowed_ref = borrowed_ref

    def share(self, spec: TaskSpec, index: int, error: Value) -> Value:
        """The error of a task's ``index``-th object, for others of its objects."""
        if error.stored is None:
            return error
        object_id = return_id(spec.task_id, index)
        if self._table.get(object_id) is None:
            self._table.add_owned(object_id)
            self._table.released.append((object_id, -1))
        packed = serialize(SharedError(self._borrowed_ref(object_id, self._me.address)))
        return Value(packed.to_bytes(), None, True, packed.contained)
