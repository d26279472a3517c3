"""The table of the objects in this node's arena: blocks, seals, pins and owners."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from nbray.object_store.allocator import Allocator


@dataclass
class _Stored:
    offset: int
    size: int
    owner_id: bytes
    sealed: bool = False
    freed: bool = False
    pins: dict[Hashable, int] = field(default_factory=dict)


class ObjectTable:
    """What lies in the arena. Pure: the caller sends the messages.

    A pin belongs to the process (``holder``) that asked; a freed object keeps its block until
    the last pin has gone.
    """

    def __init__(self, capacity: int) -> None:
        self.allocator = Allocator(capacity)
        self._objects: dict[bytes, _Stored] = {}
        self._waiting: dict[bytes, list[Callable[[], None]]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def create(self, object_id: bytes, size: int, owner_id: bytes) -> int | None:
        """The offset of room for a new object, or None when the store is full."""
        known = self._objects.get(object_id)
        if known is not None:  # a retried task makes its return value again
            self._forget(object_id)
        offset = self.allocator.allocate(size)
        if offset is not None:
            self._objects[object_id] = _Stored(offset, size, owner_id)
        return offset

    def seal(self, object_id: bytes) -> None:
        """The object is complete; whoever waits for it is called."""
        stored = self._objects.get(object_id)
        if stored is not None:
            stored.sealed = True
        for ready in self._waiting.pop(object_id, []):
            ready()

    def pin(self, object_id: bytes, holder: Hashable) -> tuple[int, int] | None:
        """Pin a sealed object: its offset and size, or None when it is not here."""
        stored = self._objects.get(object_id)
        if stored is None or not stored.sealed or stored.freed:
            return None
        stored.pins[holder] = stored.pins.get(holder, 0) + 1
        return stored.offset, stored.size

    def when_sealed(self, object_id: bytes, ready: Callable[[], None]) -> None:
        """Call ``ready`` at the next seal of the object."""
        self._waiting.setdefault(object_id, []).append(ready)

    def unpin(self, object_id: bytes, holder: Hashable) -> None:
        """One pin less."""
        stored = self._objects.get(object_id)
        if stored is None or holder not in stored.pins:
            return
        stored.pins[holder] -= 1
        if not stored.pins[holder]:
            del stored.pins[holder]
            if stored.freed and not stored.pins:
                self._forget(object_id)

    def free(self, object_id: bytes) -> None:
        """Nobody refers to the object any more."""
        stored = self._objects.get(object_id)
        if stored is not None:
            stored.freed = True
            if not stored.pins:
                self._forget(object_id)

    def process_gone(self, holder: Hashable, worker_id: bytes) -> None:
        """Drop a process's pins, and the objects that it owned."""
        for object_id, stored in list(self._objects.items()):
            if stored.pins.pop(holder, None) is not None and stored.freed and not stored.pins:
                self._forget(object_id)
            elif stored.owner_id == worker_id:
                self.free(object_id)

    def _forget(self, object_id: bytes) -> None:
        self.allocator.free(self._objects.pop(object_id).offset)

    def holders(self) -> str:
        """A sentence about the largest objects, for the error of a full store."""
        largest = sorted(self._objects.items(), key=lambda item: -item[1].size)[:3]
        return "; ".join(
            f"{stored.size / 1e6:.1f} MB of object {object_id.hex()[:16]} owned by "
            f"{stored.owner_id.hex()[:8]}"
            for object_id, stored in largest
        )
