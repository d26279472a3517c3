"""The key-value space: bytes by namespace and key, for libraries and for the cluster itself.

The key of a row is the length of its namespace, the namespace, and the key.
"""

from __future__ import annotations

from typing import Any

from nbray.gcs.storage import Store
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import Handler

_TABLE = "kv"


class KeyValueSpace:
    """The GCS methods that begin with ``Kv``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._values = dict(store.rows(_TABLE))

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "KvPut": (g.KvPut, self._put),
            "KvGet": (g.KvKey, self._get),
            "KvGetMany": (g.KvMany, self._get_many),
            "KvDel": (g.KvKey, self._del),
            "KvKeys": (g.KvKey, self._keys),
            "KvExists": (g.KvKey, self._exists),
        }

    def get(self, namespace: bytes, key: bytes) -> bytes | None:
        """The value of a key."""
        return self._values.get(_row_key(namespace, key))

    def put(self, namespace: bytes, key: bytes, value: bytes) -> None:
        """Set a value; safe after the store's next ``durable``."""
        row = _row_key(namespace, key)
        self._values[row] = value
        self._store.put(_TABLE, row, value)

    def delete_all(self, namespace: bytes, prefix: bytes) -> int:
        """Delete the keys that begin so, and count them; safe after the next ``durable``."""
        start = _row_key(namespace, prefix)
        rows = [row for row in self._values if row.startswith(start)]
        for row in rows:
            del self._values[row]
            self._store.delete(_TABLE, row)
        return len(rows)

    async def _put(self, request: g.KvPut) -> g.KvCount:
        there = _row_key(request.namespace, request.key) in self._values
        if request.overwrite or not there:
            self.put(request.namespace, request.key, request.value)
        await self._store.durable()
        return g.KvCount(int(not there))

    async def _get(self, request: g.KvKey) -> g.KvValue:
        return g.KvValue(self.get(request.namespace, request.key))

    async def _get_many(self, request: g.KvMany) -> g.KvValues:
        return g.KvValues([self.get(request.namespace, key) for key in request.keys])

    async def _del(self, request: g.KvKey) -> g.KvCount:
        if request.is_prefix:
            count = self.delete_all(request.namespace, request.key)
        else:
            row = _row_key(request.namespace, request.key)
            count = int(self._values.pop(row, None) is not None)
            self._store.delete(_TABLE, row)
        await self._store.durable()
        return g.KvCount(count)

    async def _keys(self, request: g.KvKey) -> g.KvKeys:
        start = len(_row_key(request.namespace, b""))
        prefix = _row_key(request.namespace, request.key)
        return g.KvKeys([row[start:] for row in self._values if row.startswith(prefix)])

    async def _exists(self, request: g.KvKey) -> g.KvCount:
        return g.KvCount(int(self.get(request.namespace, request.key) is not None))


def _row_key(namespace: bytes, key: bytes) -> bytes:
    return len(namespace).to_bytes(4, "big") + namespace + key
