"""The store that the user named."""

from __future__ import annotations

from pathlib import Path

from nbray.gcs.storage.backend import Backend
from nbray.gcs.storage.store import Store


def open_store(url: str, session: Path) -> Store:
    """The store that ``url`` names, for the cluster of that session folder.

    Args:
        url: "sqlite" (a file in the session folder), "memory", or
            "redis://[user:password@]host:port[/database]" (``rediss://`` for TLS).
        session: the session folder.

    Raises:
        StorageError: it cannot be opened.
        ValueError: there is no such kind of storage.
    """
    backend: Backend
    if url == "sqlite":
        from nbray.gcs.storage.sqlite import SqliteBackend

        backend = SqliteBackend(session / "gcs.sqlite")
    elif url == "memory":
        from nbray.gcs.storage.memory import MemoryBackend

        backend = MemoryBackend()
    elif url.startswith(("redis://", "rediss://")):
        from nbray.gcs.storage.redis import RedisBackend

        backend = RedisBackend(url, session.name)
    else:
        # The rest of it may be a password.
        kind = url.partition(":")[0] if "@" not in url.partition(":")[0] else "that"
        raise ValueError(f"--storage takes sqlite, memory or redis://HOST:PORT, not {kind!r}.")
    return Store(backend)
