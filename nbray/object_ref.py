"""ObjectRef: the handle of a value that is, or will be, somewhere in the cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from nbray.common.ids import NIL, JobID, ObjectID, TaskID

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker
    from nbray.wire.records import Address


class ObjectRef:
    """A future of one value. `get` it, pass it to tasks, or `await` it."""

    __slots__ = ("__weakref__", "_core", "_id", "_origin", "_owner")

    def __init__(self, object_id: bytes, owner: Address, core: CoreWorker, origin: int = 0) -> None:
        self._origin = origin
        self._id = object_id
        self._owner = owner
        self._core = core

    def __del__(self) -> None:
        core = self._core
        core.released.append((self._id, -1))
        core.reactor.nudge()

    def binary(self) -> bytes:
        """The id as 28 bytes."""
        return self._id

    def hex(self) -> str:
        """The id as hexadecimal text."""
        return self._id.hex()

    @classmethod
    def size(cls) -> int:
        """How many bytes the id has."""
        return ObjectID.SIZE

    def is_nil(self) -> bool:
        """Whether it stands for no value, as a generator's next that has not come in time."""
        return self._id == NIL

    def task_id(self) -> TaskID:
        """The id of the task that makes the value."""
        return ObjectID(self._id).task_id()

    def job_id(self) -> JobID:
        """The id of the job whose task makes the value."""
        return ObjectID(self._id).job_id()

    def future(self) -> concurrent.futures.Future[Any]:
        """A `concurrent.futures.Future` of the value."""
        return self._core.values.future(self)

    def as_future(self) -> asyncio.Future[Any]:
        """A future of the value in the running event loop."""
        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, Any]:
        return self.as_future().__await__()

    def __reduce__(self) -> tuple[Any, ...]:
        from nbray.core_worker.serialization import reduce_ref

        return reduce_ref(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"
