"""The cluster's key-value space: it outlives drivers and the GCS's process.

Keys and values are bytes or text; names and results are those of ``ray.experimental.internal_kv``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nbray.driver import current_core, is_initialized
from nbray.wire import gcs_messages as g

_Text = bytes | str


def _bytes(text: _Text | None) -> bytes:
    if text is None:
        return b""
    if not isinstance(text, bytes | str):
        raise TypeError(f"Keys, values and namespaces are bytes or str, not {type(text).__name__}.")
    return text.encode() if isinstance(text, str) else text


def _ask(method: str, request: Any, reply_type: type[Any]) -> Any:
    reply = current_core().peers.gcs_call(method, msgspec.msgpack.encode(request))
    return msgspec.msgpack.decode(reply, type=reply_type)


def _key(key: _Text, namespace: _Text | None, is_prefix: bool = False) -> g.KvKey:
    return g.KvKey(_bytes(namespace), _bytes(key), is_prefix)


def _internal_kv_initialized() -> bool:
    """Whether this process belongs to a cluster."""
    return is_initialized()


def _internal_kv_put(
    key: _Text, value: _Text, overwrite: bool = True, *, namespace: _Text | None = None
) -> bool:
    """Set a value; returns whether the key existed. Without ``overwrite`` an old value stays."""
    request = g.KvPut(_bytes(namespace), _bytes(key), _bytes(value), overwrite)
    return not _ask("KvPut", request, g.KvCount).count


def _internal_kv_get(key: _Text, *, namespace: _Text | None = None) -> bytes | None:
    """The value of a key, or None."""
    value: bytes | None = _ask("KvGet", _key(key, namespace), g.KvValue).value
    return value


def _internal_kv_exists(key: _Text, *, namespace: _Text | None = None) -> bool:
    """Whether there is such a key."""
    return bool(_ask("KvExists", _key(key, namespace), g.KvCount).count)


def _internal_kv_del(
    key: _Text, *, del_by_prefix: bool = False, namespace: _Text | None = None
) -> int:
    """Delete a key, or all that begin with it; returns how many."""
    count: int = _ask("KvDel", _key(key, namespace, del_by_prefix), g.KvCount).count
    return count


def _internal_kv_list(prefix: _Text, *, namespace: _Text | None = None) -> list[bytes]:
    """The keys that begin with ``prefix``."""
    keys: list[bytes] = _ask("KvKeys", _key(prefix, namespace), g.KvKeys).keys
    return keys
