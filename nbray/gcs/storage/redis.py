"""Tables in Redis: one hash for each, named after the session.

A transaction is a MULTI. It is as durable as the server is told to be: ``appendonly yes`` keeps
it when the server is killed, ``appendfsync always`` also when its machine loses power.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from nbray.common.extras import how_to_install
from nbray.gcs.storage.backend import Batch, StorageError

_TIMEOUT_S = 5.0


class RedisBackend:
    """Hashes ``nbray:<cluster>:<table>`` in the database that ``url`` names."""

    def __init__(self, url: str, cluster: str) -> None:
        try:
            import redis
        except ImportError as error:
            raise StorageError(
                f"--storage redis:// needs the package redis: {how_to_install('redis')}."
            ) from error
        try:
            self._where = f"{urlsplit(url).hostname}:{urlsplit(url).port or 6379}"
        except ValueError:  # whose text has a part of the URL, as its password
            raise StorageError(
                "The URL of the storage is no redis://USER:PASSWORD@HOST:PORT; a password with "
                "one of / ? # @ : has these as %2F %3F %23 %40 %3A."
            ) from None
        self._prefix = f"nbray:{cluster}:"
        self._errors = redis.RedisError
        try:
            self._client = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
            )
            self._client.ping()
        except (redis.RedisError, ValueError) as error:
            raise self._failed(error) from error

    def rows(self, table: str) -> Iterable[tuple[bytes, bytes]]:
        try:
            found: dict[bytes, bytes] = self._client.hgetall(self._prefix + table)  # type: ignore[assignment]
        except self._errors as error:
            raise self._failed(error) from error
        return found.items()

    def keys(self, table: str) -> Iterable[bytes]:
        try:
            found: list[bytes] = self._client.hkeys(self._prefix + table)  # type: ignore[assignment]
        except self._errors as error:
            raise self._failed(error) from error
        return found

    def read(self, table: str, key: bytes) -> bytes | None:
        try:
            found: bytes | None = self._client.hget(self._prefix + table, key)  # type: ignore[assignment]
        except self._errors as error:
            raise self._failed(error) from error
        return found

    def write(self, batch: Batch) -> None:
        pipe = self._client.pipeline(transaction=True)
        for (table, key), value in batch.items():
            if value is None:
                pipe.hdel(self._prefix + table, key)
            else:
                pipe.hset(self._prefix + table, key, value)
        try:
            pipe.execute()
        except self._errors as error:
            raise self._failed(error) from error

    def close(self) -> None:
        self._client.close()

    def _failed(self, error: Exception) -> StorageError:
        return StorageError(f"The tables of the GCS in Redis at {self._where}: {error}.")
