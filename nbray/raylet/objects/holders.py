"""Who holds the store, for people."""

from __future__ import annotations

import os

from nbray.raylet.objects.table import ObjectTable, Stored
from nbray.raylet.process import Process

_NAMED = 5


class Holders:
    """The names of a node's processes, and what they hold of its store."""

    def __init__(self, node_id: bytes, table: ObjectTable) -> None:
        self._node_id = node_id
        self._table = table
        self._names: dict[bytes, str] = {}

    def introduce(self, process: Process, name: str) -> None:
        """A process of this node, by the name that errors call it."""
        self._names[process.worker_id] = name

    def forget(self, process: Process) -> None:
        """It holds nothing any more."""
        self._names.pop(process.worker_id, None)

    def text(self) -> str:
        """The largest objects: who owns, made, writes and reads them."""
        allocator = self._table.allocator
        lines = [
            f"Node {self._node_id.hex()[:8]} (pid {os.getpid()}): {allocator.used / 1e6:.1f} of "
            f"{allocator.capacity / 1e6:.1f} MB are in use. The largest objects:"
        ]
        for object_id, stored in self._table.largest(_NAMED):
            lines.append(f"  {stored.size / 1e6:.1f} MB  {object_id.hex()}  {self._story(stored)}")
        return "\n".join(lines)

    def _story(self, stored: Stored) -> str:
        parts = [f"owned by {self._name(stored.owner_id)}"]
        if stored.label:
            parts.append(f"made by {stored.label}")
        if not stored.sealed:
            parts.append("being written")
        if stored.pins:
            readers = [self._name(p.worker_id) for p in stored.pins if isinstance(p, Process)]
            parts.append("read by " + ", ".join(readers or ["this raylet"]))
        return ", ".join(parts)

    def _name(self, worker_id: bytes) -> str:
        return self._names.get(worker_id, f"process {worker_id.hex()[:8]} of another node")
