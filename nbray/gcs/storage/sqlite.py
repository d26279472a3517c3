"""Tables in one SQLite file, with a write-ahead log.

``synchronous=NORMAL``: a commit is in the kernel's hands, so it survives the end of this process,
however that comes; a machine that loses power may lose the newest commits, and nothing else, but
takes the head node's raylet with it anyway. It saves an fsync for each commit.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

from nbray.gcs.storage.backend import Batch, StorageError

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS rows (kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (kind, key))"
)
_BUSY_S = 5.0
_SURPLUS_BYTES = 8 << 20


class SqliteBackend:
    """The rows of all tables in the file ``path``, which is private to the user."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        try:
            path.touch(mode=0o600)
            self._db, self._reader = (
                sqlite3.connect(
                    path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
                )
                for _ in range(2)
            )
            self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file only
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA journal_size_limit={_SURPLUS_BYTES}")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error

    def rows(self, table: str) -> Iterable[tuple[bytes, bytes]]:
        try:
            return self._db.execute(
                "SELECT key, value FROM rows WHERE kind = ?", (table,)
            ).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def keys(self, table: str) -> Iterable[bytes]:
        try:
            found = self._db.execute("SELECT key FROM rows WHERE kind = ?", (table,)).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return [key for (key,) in found]

    def read(self, table: str, key: bytes) -> bytes | None:
        """By a connection of its own, which a write does not keep waiting."""
        select = "SELECT value FROM rows WHERE kind = ? AND key = ?"
        try:
            with self._reading:
                found = self._reader.execute(select, (table, key)).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return found[0][0] if found else None

    def write(self, batch: Batch) -> None:
        puts = [(*row, value) for row, value in batch.items() if value is not None]
        deletes = [row for row, value in batch.items() if value is None]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", puts)
                self._db.executemany("DELETE FROM rows WHERE kind = ? AND key = ?", deletes)
                self._db.execute("COMMIT")
            except sqlite3.Error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            if deletes:
                self._shrink()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _shrink(self) -> None:
        """Give back what is free in the file if it is much, as after the end of a package."""
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (page,) = self._db.execute("PRAGMA page_size").fetchone()
        if free * page > _SURPLUS_BYTES:
            self._db.executescript("PRAGMA incremental_vacuum")  # `execute` takes one step
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        with self._reading:
            self._reader.close()
        self._db.close()

    def _failed(self, error: Exception) -> StorageError:
        return StorageError(f"The tables of the GCS in {self._path}: {error}.")
