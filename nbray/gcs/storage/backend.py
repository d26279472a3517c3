"""What a store is made on: the interface of a backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

Batch = dict[tuple[str, bytes], bytes | None]


class StorageError(Exception):
    """The tables cannot be read or written; the text says where they are and why."""


class Backend(Protocol):
    """Keeps rows: bytes by table and key. May block; all but ``read`` is for one thread."""

    def rows(self, table: str) -> Iterable[tuple[bytes, bytes]]:
        """All rows of a table."""

    def keys(self, table: str) -> Iterable[bytes]:
        """The keys of all rows of a table."""

    def read(self, table: str, key: bytes) -> bytes | None:
        """One row that is durable, if there is one; for any thread.

        Raises:
            StorageError: it cannot be read.
        """

    def write(self, batch: Batch) -> None:
        """Do all writes (None deletes) or none; returns when they are durable.

        Raises:
            StorageError: it could not; trying again may help.
        """

    def close(self) -> None:
        """Let go of files and connections."""
