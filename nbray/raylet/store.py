"""The table of the objects in this node's arena: blocks, seals, pins and owners."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from nbray.object_store.allocator import Allocator


@dataclass
class _Stored:
    offset: int
    size: int
    owner_id: bytes
    creator: Hashable
    secondary: bool
    sealed: bool = False
    freed: bool = False
    pins: dict[Hashable, int] = field(default_factory=dict)


class ObjectTable:
    """What lies in the arena. Pure: the caller sends the messages.

    A pin belongs to the process (``holder``) that asked. A freed object keeps its block until the
    last pin has gone and nobody writes it any more. Secondary copies, pulled from
    another node, make room for new objects when nobody has them pinned.
    """

    def __init__(self, capacity: int) -> None:
        self.allocator = Allocator(capacity)
        self._objects: dict[bytes, _Stored] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def create(
        self,
        object_id: bytes,
        size: int,
        owner_id: bytes,
        creator: Hashable = None,
        secondary: bool = False,
    ) -> int | None:
        """The offset of room for a new object that ``creator`` will write and seal.

        None when there is no room, or when the object exists and is still read or written: a
        retried task makes its value again, but not under the eyes of a reader.
        """
        known = self._objects.get(object_id)
        if known is not None:
            if known.pins or not known.sealed:
                return None
            self._forget(object_id)
        offset = self.allocator.allocate(size)
        if offset is None and self._evict(size):
            offset = self.allocator.allocate(size)
        if offset is not None:
            self._objects[object_id] = _Stored(offset, size, owner_id, creator, secondary)
        return offset

    def _evict(self, size: int) -> bool:
        """Forget unpinned secondary copies, oldest first, until ``size`` more bytes are free."""
        wanted = self.allocator.used - size
        for object_id, stored in list(self._objects.items()):
            if stored.secondary and stored.sealed and not stored.pins:
                self._forget(object_id)
                if self.allocator.used <= wanted:
                    break
        return self.allocator.used <= self.allocator.capacity - size

    def seal(self, object_id: bytes) -> None:
        """The object is complete and may be read."""
        stored = self._objects.get(object_id)
        if stored is not None:
            stored.sealed = True
            self._collect(object_id, stored)

    def abort(self, object_id: bytes) -> None:
        """The object will not be completed."""
        stored = self._objects.get(object_id)
        if stored is not None and not stored.sealed:
            self._forget(object_id)

    def is_written(self, object_id: bytes) -> bool:
        """Whether the object has room and is not sealed yet."""
        stored = self._objects.get(object_id)
        return stored is not None and not stored.sealed

    def locate(self, object_id: bytes) -> tuple[int, int] | None:
        """Offset and size of a sealed object, or None when it is not here."""
        stored = self._objects.get(object_id)
        if stored is None or not stored.sealed or stored.freed:
            return None
        return stored.offset, stored.size

    def pin(self, object_id: bytes, holder: Hashable) -> tuple[int, int] | None:
        """Pin a sealed object: its offset and size, or None when it is not here."""
        place = self.locate(object_id)
        if place is not None:
            pins = self._objects[object_id].pins
            pins[holder] = pins.get(holder, 0) + 1
        return place

    def unpin(self, object_id: bytes, holder: Hashable) -> None:
        """One pin less."""
        stored = self._objects.get(object_id)
        if stored is None or holder not in stored.pins:
            return
        stored.pins[holder] -= 1
        if not stored.pins[holder]:
            del stored.pins[holder]
            self._collect(object_id, stored)

    def free(self, object_id: bytes) -> None:
        """Nobody refers to the object any more."""
        stored = self._objects.get(object_id)
        if stored is not None:
            stored.freed = True
            self._collect(object_id, stored)

    def process_gone(self, holder: Hashable, worker_id: bytes) -> list[bytes]:
        """Drop a process's pins, what it was writing, and the objects that it owned.

        Returns:
            the objects that it owned or was writing.
        """
        unfinished = []
        for object_id, stored in list(self._objects.items()):
            stored.pins.pop(holder, None)
            if not stored.sealed and stored.creator == holder:
                self._forget(object_id)
                unfinished.append(object_id)
            else:
                self._collect(object_id, stored)
        return unfinished + self.owner_gone(worker_id)

    def owner_gone(self, worker_id: bytes) -> list[bytes]:
        """Free what a dead process owned; returns those objects."""
        owned = [i for i, stored in self._objects.items() if stored.owner_id == worker_id]
        for object_id in owned:
            self.free(object_id)
        return owned

    def _collect(self, object_id: bytes, stored: _Stored) -> None:
        if stored.freed and stored.sealed and not stored.pins:
            self._forget(object_id)

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
