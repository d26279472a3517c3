"""What a store is made on: the interface of a backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

Batch = dict[tuple[str, bytes], bytes | None]


class StorageError(Exception):
    """The tables cannot be read or written; the text says where they are and why."""


class Backend(Protocol):
    """Keeps rows: bytes by table and key. Used by one thread at a time, and may block."""

    def rows(self, table: str) -> Iterable[tuple[bytes, bytes]]:
        """All rows of a table."""

    def write(self, batch: Batch) -> None:
        """Do all writes (None deletes) or none; returns when they are durable.

        Raises:
            StorageError: it could not; trying again may help.
        """

    def close(self) -> None:
        """Let go of files and connections."""
