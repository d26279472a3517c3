"""One table of rows of one type, on a store."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from nbray.gcs.storage.backend import StorageError
from nbray.gcs.storage.store import Store

Row = TypeVar("Row")
_encode = msgspec.msgpack.Encoder().encode


class Table(Generic[Row]):
    """Rows of ``row_type``, a msgspec Struct; new fields go to its end, with defaults."""

    def __init__(self, store: Store, name: str, row_type: type[Row]) -> None:
        self._store = store
        self._name = name
        self._decoder = msgspec.msgpack.Decoder(row_type)

    def all(self) -> dict[bytes, Row]:
        """All rows by key; blocks, and is for the start, before anything is written.

        Raises:
            StorageError: a row cannot be read.
        """
        try:
            return {key: self._decoder.decode(row) for key, row in self._store.rows(self._name)}
        except msgspec.DecodeError as error:
            raise StorageError(f"A row of the table {self._name} is unreadable: {error}") from error

    def put(self, key: bytes, row: Row) -> None:
        """Write a row; safe after the next `Store.durable`."""
        self._store.put(self._name, key, _encode(row))

    def delete(self, key: bytes) -> None:
        """Delete a row, if there is one; safe after the next `Store.durable`."""
        self._store.delete(self._name, key)
