"""The key-value space: bytes by namespace and key, for libraries and for the cluster itself.

The key of a row is the length of its namespace, the namespace, and the key. Values are held in
memory but for packages, which may have 500 MB each: of those the keys are, and what is asked for
is read from the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nbray.gcs.receipts import Receipts
from nbray.gcs.storage import Store
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import Handler

_TABLE = "kv"
_BULK = "kv of packages"


class KeyValueSpace:
    """The GCS methods that begin with ``Kv``."""

    def __init__(self, store: Store, receipts: Receipts) -> None:
        self._store = store
        self._receipts = receipts
        self._values = dict(store.rows(_TABLE))
        self._stored = dict.fromkeys(store.keys(_BULK))

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "KvPut": (g.KvPut, self._put),
            "KvGet": (g.KvKey, self._get),
            "KvGetMany": (g.KvMany, self._get_many),
            "KvDel": (g.KvDel, self._del),
            "KvKeys": (g.KvKey, self._keys),
            "KvExists": (g.KvKey, self._exists),
        }

    def get(self, namespace: bytes, key: bytes) -> bytes | None:
        """The value of a key that is held in memory: of any namespace but that of packages."""
        return self._values.get(_row_key(namespace, key))

    def has(self, namespace: bytes, key: bytes) -> bool:
        """Whether a key has a value."""
        row = _row_key(namespace, key)
        return row in self._values or row in self._stored

    def put(self, namespace: bytes, key: bytes, value: bytes) -> None:
        """Set a value; safe after the store's next ``durable``."""
        row = _row_key(namespace, key)
        if namespace == g.PACKAGES:
            self._stored[row] = None
            self._store.put(_BULK, row, value)
        else:
            self._values[row] = value
            self._store.put(_TABLE, row, value)

    async def durable(self) -> None:
        """Returns when all that was put and deleted is safe."""
        await self._store.durable()

    def delete(self, namespace: bytes, key: bytes) -> None:
        """Delete a key, if it is there; safe after the store's next ``durable``."""
        self._delete(namespace, _row_key(namespace, key))

    def delete_all(self, namespace: bytes, prefix: bytes) -> int:
        """Delete the keys that begin so, and count them; safe after the next ``durable``."""
        start = _row_key(namespace, prefix)
        rows = [row for row in self._rows(namespace) if row.startswith(start)]
        for row in rows:
            self._delete(namespace, row)
        return len(rows)

    def _rows(self, namespace: bytes) -> Iterable[bytes]:
        return self._stored if namespace == g.PACKAGES else self._values

    def _delete(self, namespace: bytes, row: bytes) -> None:
        if namespace == g.PACKAGES:
            self._stored.pop(row, None)
            self._store.delete(_BULK, row)
        else:
            self._values.pop(row, None)
            self._store.delete(_TABLE, row)

    async def _read(self, namespace: bytes, key: bytes) -> bytes | None:
        row = _row_key(namespace, key)
        if row in self._stored:
            return await self._store.read(_BULK, row)
        return self._values.get(row)

    async def _put(self, request: g.KvPut) -> g.KvCount:
        count = self._receipts.find(request.request_id)
        if count is None:
            there = self.has(request.namespace, request.key)
            count = int(not there)
            if request.overwrite or not there:
                with self._store.together():
                    self.put(request.namespace, request.key, request.value)
                    self._receipts.keep(request.request_id, count)
        await self._store.durable()
        return g.KvCount(count)

    async def _get(self, request: g.KvKey) -> g.KvValue:
        return g.KvValue(await self._read(request.namespace, request.key))

    async def _get_many(self, request: g.KvMany) -> g.KvValues:
        return g.KvValues([await self._read(request.namespace, key) for key in request.keys])

    async def _del(self, request: g.KvDel) -> g.KvCount:
        count = self._receipts.find(request.request_id)
        if count is None:
            with self._store.together():
                if request.is_prefix:
                    count = self.delete_all(request.namespace, request.key)
                else:
                    count = int(self.has(request.namespace, request.key))
                    self.delete(request.namespace, request.key)
                if count:
                    self._receipts.keep(request.request_id, count)
        await self._store.durable()
        return g.KvCount(count)

    async def _keys(self, request: g.KvKey) -> g.KvKeys:
        start = len(_row_key(request.namespace, b""))
        prefix = _row_key(request.namespace, request.key)
        return g.KvKeys(
            [row[start:] for row in self._rows(request.namespace) if row.startswith(prefix)]
        )

    async def _exists(self, request: g.KvKey) -> g.KvCount:
        return g.KvCount(int(self.has(request.namespace, request.key)))


def _row_key(namespace: bytes, key: bytes) -> bytes:
    return len(namespace).to_bytes(4, "big") + namespace + key
