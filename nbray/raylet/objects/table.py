"""The table of a node's objects: blocks, seals, pins, owners, and what lies on disk.

Theory. An object is *written* first (its creator fills the block, or a place on disk when the arena
has no room for it), then *sealed*. A sealed one has a block in the arena, a place on disk, or both.
Which blocks may be dropped follows from what is known of the object, and is kept in two ordered
sets, the one that was not used for longest first:

- *clean*: sealed, not pinned, and not the only copy: it lies on disk too, or is a secondary
  copy of another node's object. Dropped whenever room is needed.
- *dirty*: sealed, not pinned, and the only copy: to be written to disk before it may go.

A pin belongs to the process (``holder``) that asked. While an object goes to disk it is
``moving``, which holds its block as a pin does. A freed object keeps block and place until the
last pin has gone, nobody writes it and it does not move. Places that nothing needs any more are
collected in `dropped_places`, secondary copies that made room in `evicted`, for the caller.

An object that was written into an allocation buffer is heard of when it is complete. Its owner may
have heard of it first, and have freed it already: frees of what is not known are kept as long as
anybody has such a buffer, and end the object when it comes. A buffer holds few enough objects that
`_MOST_EARLY` frees are those of hundreds of them.

All of it is pure: the caller sends the messages and touches the disk.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from nbray.object_store.allocator import Allocator, aligned
from nbray.object_store.spilling import StoreState

_MOST_EARLY = 65_536


@dataclass(frozen=True)
class Place:
    """Where a value lies on disk: from ``offset`` on in the file that ``file`` stands for."""

    file: Hashable
    offset: int


@dataclass(eq=False)
class Stored:
    """One object. ``block`` and ``place`` say where it lies; see the head of this module."""

    size: int
    owner_id: bytes
    owner_node: bytes
    creator: Hashable
    secondary: bool
    label: str
    block: int | None = None
    place: Place | None = None
    sealed: bool = False
    freed: bool = False
    moving: bool = False
    pins: dict[Hashable, int] = field(default_factory=dict)


class ObjectTable:
    """All objects of this node."""

    def __init__(self, capacity: int) -> None:
        self.allocator = Allocator(capacity)
        self.dropped_places: list[Place] = []
        self.evicted: list[tuple[bytes, Stored]] = []
        self._objects: dict[bytes, Stored] = {}
        self._clean: dict[bytes, int] = {}
        self._dirty: dict[bytes, int] = {}
        self._clean_bytes = 0
        self._moving_bytes = 0
        self._spilled_bytes = 0
        self._buffers: dict[int, Hashable] = {}
        self._freed_early: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def label(self, object_id: bytes) -> str:
        """The line or task that made an object of this node; empty when it is not known."""
        known = self._objects.get(object_id)
        return known.label if known is not None else ""

    # --- writing --------------------

    def create(
        self,
        object_id: bytes,
        size: int,
        owner_id: bytes,
        creator: Hashable = None,
        secondary: bool = False,
        label: str = "",
        owner_node: bytes = b"",
    ) -> int | None:
        """The offset of room for a new object that ``creator`` will write and seal.

        None when there is no room, or when the object exists and is still read or written: a
        retried task makes its value again, but not under the eyes of a reader.
        """
        if self.is_busy(object_id):
            return None
        if object_id in self._objects:
            self._forget(object_id)
        offset = self._room(size)
        if offset is not None:
            self._objects[object_id] = Stored(
                size, owner_id, owner_node, creator, secondary, label, offset
            )
        return offset

    def create_in_file(
        self, object_id: bytes, size: int, owner_id: bytes, creator: Hashable, label: str,
        owner_node: bytes, place: Place,
    ) -> bool:  # fmt: skip
        """Like `create`, for an object that is written to ``place``; False when it is busy."""
        if self.is_busy(object_id):
            return False
        if object_id in self._objects:
            self._forget(object_id)
        self._objects[object_id] = Stored(
            size, owner_id, owner_node, creator, False, label, None, place
        )
        self._spilled_bytes += size
        return True

    def is_busy(self, object_id: bytes) -> bool:
        """Whether the object exists and is read, written or moved."""
        known = self._objects.get(object_id)
        return known is not None and bool(known.pins or known.moving or not known.sealed)

    def create_on_disk(
        self, object_id: bytes, size: int, owner_id: bytes, owner_node: bytes, place: Place
    ) -> None:
        """A secondary copy of another node's object that has no block, only a place on disk."""
        if object_id in self._objects:
            self.dropped_places.append(place)
            return
        stored = Stored(size, owner_id, owner_node, None, True, "", None, place, sealed=True)
        self._objects[object_id] = stored
        self._spilled_bytes += size

    def _room(self, size: int) -> int | None:
        """A block; clean ones are dropped for it, but only if that can be enough."""
        allocator = self.allocator
        offset = allocator.allocate(size)
        size = aligned(size)
        if offset is not None or allocator.used - self._clean_bytes + size > allocator.capacity:
            return offset
        for object_id in list(self._clean):
            self._drop_block(object_id)
            if allocator.used + size <= allocator.capacity:
                offset = allocator.allocate(size)
                if offset is not None:
                    return offset
        return None

    def _drop_block(self, object_id: bytes) -> None:
        stored = self._objects[object_id]
        if stored.place is None:
            self._forget(object_id)
            self.evicted.append((object_id, stored))
            return
        assert stored.block is not None
        self.allocator.free(stored.block)
        stored.block = None
        self._sort(object_id, stored)

    def seal(self, object_id: bytes) -> None:
        """The object is complete and may be read."""
        stored = self._objects.get(object_id)
        if stored is not None:
            stored.sealed = True
            self._settle(object_id, stored)

    def abort(self, object_id: bytes) -> None:
        """The object will not be completed; its room stays until nobody holds it."""
        stored = self._objects.get(object_id)
        if stored is not None and not stored.sealed:
            stored.sealed = stored.freed = True
            self._settle(object_id, stored)

    def discard(self, object_id: bytes, creator: Hashable) -> None:
        """Nobody will use what ``creator`` made, or began to make."""
        stored = self._objects.get(object_id)
        if stored is not None and stored.creator is creator:
            self.abort(object_id)
            self.free(object_id)

    # --- allocation buffers --------------------

    def lend_buffer(self, size: int, holder: Hashable) -> int | None:
        """A block that ``holder`` will put objects into by itself; None when none is free.

        No byte of it is anybody else's until it was `cut_buffer`-ed, or the holder has ended.
        """
        offset = self.allocator.allocate(size)
        if offset is not None:
            self._buffers[offset] = holder
        return offset

    def cut_buffer(self, offset: int, size: int, holder: Hashable) -> bool:
        """Cut a block out of room that ``holder`` has; False when it is not all the holder's."""
        end = offset + aligned(size)
        for start, owner in self._buffers.items():
            room_end = start + self.allocator.size_of(start)
            if owner == holder and start <= offset and end <= room_end:
                break
        else:
            return False
        del self._buffers[start]
        if start < offset:
            self.allocator.split(start, offset)
            self._buffers[start] = holder
        if end < room_end:
            self.allocator.split(offset, end)
            self._buffers[end] = holder
        return True

    def add_written(
        self,
        object_id: bytes,
        offset: int,
        size: int,
        owner_id: bytes,
        creator: Hashable,
        label: str,
        owner_node: bytes = b"",
    ) -> bool:
        """An object was written into room that its creator had; False when it had not.

        One that exists stays as it is: its readers see it, and the values are equal. It is
        this creator's from now on: the other one's end does not end it.
        """
        if not self.cut_buffer(offset, size, creator):
            return False
        known = self._objects.get(object_id)
        if known is not None:
            self.allocator.free(offset)
            if known.sealed:
                known.creator, known.secondary = creator, False
                self._settle(object_id, known)
            return True
        stored = Stored(size, owner_id, owner_node, creator, False, label, offset, sealed=True)
        stored.freed = object_id in self._freed_early
        self._freed_early.pop(object_id, None)
        self._objects[object_id] = stored
        self._settle(object_id, stored)
        return True

    def return_buffer(self, offset: int, size: int, holder: Hashable) -> bool:
        """The holder does not need that part of its room; False when it is not the holder's."""
        taken = self.cut_buffer(offset, size, holder)
        if taken:
            self.allocator.free(offset)
        self._forget_frees()
        return taken

    def _forget_frees(self) -> None:
        if not self._buffers:
            self._freed_early.clear()

    @property
    def buffer_holders(self) -> set[Hashable]:
        """Who has an allocation buffer."""
        return set(self._buffers.values())

    # --- reading --------------------

    def is_written(self, object_id: bytes) -> bool:
        """Whether the object has room and is not sealed yet."""
        stored = self._objects.get(object_id)
        return stored is not None and not stored.sealed

    def locate(self, object_id: bytes) -> Stored | None:
        """A sealed object, or None when it is not here."""
        stored = self._objects.get(object_id)
        return stored if stored is not None and stored.sealed and not stored.freed else None

    def pin(self, object_id: bytes, holder: Hashable) -> Stored | None:
        """Pin a sealed object: it stays where it is now. None when it is not here."""
        stored = self.locate(object_id)
        if stored is not None:
            stored.pins[holder] = stored.pins.get(holder, 0) + 1
            self._sort(object_id, stored)
        return stored

    def hold(self, object_id: bytes, holder: Hashable) -> int | None:
        """As `pin`, of an object that is being written: its block, of which parts are complete."""
        stored = self._objects.get(object_id)
        if stored is None or stored.sealed or stored.block is None:
            return None
        stored.pins[holder] = stored.pins.get(holder, 0) + 1
        return stored.block

    def unpin(self, object_id: bytes, holder: Hashable) -> None:
        """One pin less."""
        stored = self._objects.get(object_id)
        if stored is None or holder not in stored.pins:
            return
        stored.pins[holder] -= 1
        if not stored.pins[holder]:
            del stored.pins[holder]
            self._settle(object_id, stored)

    # --- to disk --------------------

    def state(self, wanted: int) -> StoreState:
        """What the arena is used for, when creations that need ``wanted`` bytes wait."""
        return StoreState(
            self.allocator.capacity, self._clean_bytes, self.allocator.used, self._moving_bytes,
            wanted,
        )  # fmt: skip

    @property
    def spilled_bytes(self) -> int:
        """Bytes of values that lie on disk."""
        return self._spilled_bytes

    def dirty(self) -> Iterator[tuple[bytes, int]]:
        """Objects that may go to disk and their sizes, those not used for longest first."""
        return iter(self._dirty.items())

    def start_moving(self, object_id: bytes) -> int:
        """The object goes to disk: its block, which stays until `moved`."""
        stored = self._objects[object_id]
        assert object_id in self._dirty and stored.block is not None
        stored.moving = True
        self._moving_bytes += aligned(stored.size)
        self._sort(object_id, stored)
        return stored.block

    def moved(self, object_id: bytes, place: Place | None) -> None:
        """The object is on disk too, or with None: it could not be written."""
        stored = self._objects[object_id]
        stored.moving = False
        self._moving_bytes -= aligned(stored.size)
        if place is not None:
            stored.place = place
            self._spilled_bytes += stored.size
        self._settle(object_id, stored)

    # --- ends --------------------

    def free(self, object_id: bytes, may_come: bool = False) -> None:
        """Nobody refers to the object any more; it ``may_come`` if it is not here."""
        stored = self._objects.get(object_id)
        if stored is not None:
            stored.freed = True
            self._settle(object_id, stored)
        elif may_come and self._buffers:
            early = self._freed_early
            early[object_id] = None
            if len(early) > _MOST_EARLY:
                del early[next(iter(early))]

    def made_for_others(self, creator: Hashable, worker_id: bytes) -> list[tuple[bytes, Stored]]:
        """The complete objects that ``creator``, of that id, made and does not own."""
        return [
            (object_id, stored)
            for object_id, stored in self._objects.items()
            if stored.creator is creator and stored.sealed and stored.owner_id != worker_id
        ]

    def unfinished_by(self, creator: Hashable) -> list[bytes]:
        """The objects that ``creator`` has begun to write and not completed."""
        return [
            object_id
            for object_id, stored in self._objects.items()
            if not stored.sealed and stored.creator == creator
        ]

    def holds(self, holder: Hashable) -> bool:
        """Whether a process may read or write any block now."""
        return holder in self.buffer_holders or any(
            holder in stored.pins or (not stored.sealed and stored.creator == holder)
            for stored in self._objects.values()
        )

    def process_gone(self, holder: Hashable) -> None:
        """Drop a process's pins, its room and what it was writing."""
        for offset in [offset for offset, owner in self._buffers.items() if owner == holder]:
            del self._buffers[offset]
            self.allocator.free(offset)
        self._forget_frees()
        for object_id, stored in list(self._objects.items()):
            pinned = stored.pins.pop(holder, None)
            if not stored.sealed and stored.creator == holder:
                self._forget(object_id)
            elif pinned:
                self._settle(object_id, stored)

    def owner_gone(self, worker_id: bytes) -> list[bytes]:
        """Free what a dead process owned; returns those objects."""
        owned = [i for i, stored in self._objects.items() if stored.owner_id == worker_id]
        for object_id in owned:
            self.free(object_id)
        return owned

    def node_gone(self, node_id: bytes) -> list[bytes]:
        """Free what processes of a dead node owned; returns those objects."""
        owned = [i for i, stored in self._objects.items() if stored.owner_node == node_id]
        for object_id in owned:
            self.free(object_id)
        return owned

    def primaries(self) -> list[tuple[bytes, Stored]]:
        """The complete values of which this node has the copy that counts."""
        return [
            (object_id, stored)
            for object_id, stored in self._objects.items()
            if stored.sealed and not stored.secondary and not stored.freed
        ]

    def is_elsewhere(self, object_id: bytes) -> None:
        """Another node keeps the copy that counts: this one may go when room is needed."""
        stored = self._objects.get(object_id)
        if stored is not None:
            stored.secondary = True
            self._settle(object_id, stored)

    def keep(self, object_id: bytes) -> bool:
        """This copy is the only one now; False when it has been evicted."""
        stored = self._objects.get(object_id)
        if stored is None:
            return False
        stored.secondary = False
        self._settle(object_id, stored)
        return True

    def _settle(self, object_id: bytes, stored: Stored) -> None:
        if stored.freed and stored.sealed and not stored.pins and not stored.moving:
            self._forget(object_id)
        else:
            self._sort(object_id, stored)

    def _forget(self, object_id: bytes) -> None:
        stored = self._objects.pop(object_id)
        self._unsort(object_id)
        if stored.block is not None:
            self.allocator.free(stored.block)
        if stored.place is not None:
            self.dropped_places.append(stored.place)
            self._spilled_bytes -= stored.size

    def _unsort(self, object_id: bytes) -> None:
        self._dirty.pop(object_id, None)
        size = self._clean.pop(object_id, None)
        if size is not None:
            self._clean_bytes -= aligned(size)

    def _sort(self, object_id: bytes, stored: Stored) -> None:
        """Keep the object in the set it belongs to now, as the one that was used last."""
        self._unsort(object_id)
        if stored.block is None or not stored.sealed or stored.pins or stored.moving:
            return
        if stored.secondary or stored.place is not None:
            self._clean[object_id] = stored.size
            self._clean_bytes += aligned(stored.size)
        else:
            self._dirty[object_id] = stored.size

    # --- for people --------------------

    def largest(self, count: int) -> list[tuple[bytes, Stored]]:
        """The largest objects that have a block."""
        held = [(i, stored) for i, stored in self._objects.items() if stored.block is not None]
        return sorted(held, key=lambda item: -item[1].size)[:count]
