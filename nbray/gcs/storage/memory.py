"""Tables in memory: quick, and gone with the GCS."""

from __future__ import annotations

from collections.abc import Iterable

from nbray.gcs.storage.backend import Batch


class MemoryBackend:
    """A dict."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {}

    def rows(self, table: str) -> Iterable[tuple[bytes, bytes]]:
        return list(self._tables.get(table, {}).items())

    def keys(self, table: str) -> Iterable[bytes]:
        return list(self._tables.get(table, {}))

    def read(self, table: str, key: bytes) -> bytes | None:
        return self._tables.get(table, {}).get(key)

    def write(self, batch: Batch) -> None:
        for (table, key), value in batch.items():
            rows = self._tables.setdefault(table, {})
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value

    def close(self) -> None:
        self._tables.clear()
