"""The memory of the object store, as a process writes and reads it.

On a machine of the cluster it is mapped (`MappedMemory`). Elsewhere its bytes travel; who brings
them stands above the core worker, and so it is a port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nbray.core_worker.values.serialization import Serialized
from nbray.object_store.arena import Arena, map_file
from nbray.object_store.private_pages import PrivatePages


class StoreMemory(Protocol):
    """Places in the store: of its memory, or with a ``path`` of one of its files.

    Attributes:
        is_mapped: a process may cut places by itself, and write them before it tells.
    """

    is_mapped: bool

    def write(self, packed: Serialized, path: str, offset: int) -> None:
        """Write a value. When this ends, however it does, nothing is written any more.

        Raises:
            LocalRayletDiedError: the store is out of reach for good.
        """

    def read(
        self, object_id: bytes, path: str, offset: int, size: int, gone: Callable[[], None],
        deadline: float | None,
    ) -> memoryview:  # fmt: skip
        """A read-only view of a place; ``gone`` is called once when it is not needed any more.

        Raises:
            LocalRayletDiedError: the store is out of reach for good.
            GetTimeoutError: the value was not here by ``deadline``, in monotonic seconds.
        """

    def private(self, view: memoryview) -> PrivatePages | None:
        """Memory with the bytes of ``view`` that may be written; None: copy it."""


Attach = Callable[[str, int, bytes], StoreMemory]
"""Makes it of the path and the size of the memory, and the id of the process that holds it."""


class MappedMemory:
    """The memory of the node on which this process runs."""

    is_mapped = True

    def __init__(self, path: str, size: int, holder_id: bytes) -> None:
        self._arena = Arena.attach(path, size, holder_id)

    def write(self, packed: Serialized, path: str, offset: int) -> None:
        """Write a value."""
        size = packed.size
        if path:
            packed.write_into(map_file(path, offset, size, writable=True))
        else:
            self._arena.touch(offset, size)
            packed.write_into(self._arena.view(offset, size))

    def read(
        self, object_id: bytes, path: str, offset: int, size: int, gone: Callable[[], None],
        deadline: float | None,
    ) -> memoryview:  # fmt: skip
        """A read-only view of a place."""
        if path:
            try:
                return map_file(path, offset, size)
            finally:
                gone()  # the mapping keeps what it shows
        return self._arena.pinned_view(offset, size, gone)

    def private(self, view: memoryview) -> PrivatePages | None:
        """Memory with the bytes of ``view`` that may be written; None: copy it."""
        return self._arena.private(view)
