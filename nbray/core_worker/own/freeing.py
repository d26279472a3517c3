"""What the end of a value gives back: its room in arenas, and the refs that stand in it."""

from __future__ import annotations

from collections.abc import Callable

from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.wire.records import Value

Free = Callable[[list[bytes], list[bytes], bytes], None]


class Freeing:
    """Under the baton. ``free`` tells raylets: object ids, their nodes, and who made them."""

    def __init__(self, table: OwnershipTable, free: Free) -> None:
        self._table = table
        self._free = free

    def free(self, object_id: bytes, value: Value) -> None:
        """Give back what a value of this process takes in arenas."""
        if value.stored is not None:
            self._free([object_id], list(value.stored.node_ids), b"")

    def free_copies(self, object_ids: list[bytes], node_id: bytes, maker: bytes = b"") -> None:
        """Copies on that node are of no use; of what nobody knows of, ``maker`` made them."""
        self._free(object_ids, [node_id], maker)

    def give_back(self, object_id: bytes, entry: ObjectEntry) -> None:
        """The object ends."""
        if entry.ties is not None:
            self._table.drop_contained(entry)
        if entry.value is not None and entry.value.stored is not None:
            self.free(object_id, entry.value)

    def drop_value(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Give the value back and keep the entry."""
        self.give_back(object_id, entry)
        entry.value, entry.history().freed = None, True
