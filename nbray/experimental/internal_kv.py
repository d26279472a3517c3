"""The cluster's key-value space: it outlives drivers and the GCS's process.

Keys and values are bytes or text; names and results are those of ``ray.experimental.internal_kv``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nbray.driver.driver import current_core, is_initialized
from nbray.wire import gcs_messages as g

__all__ = [
    "_internal_kv_del",
    "_internal_kv_exists",
    "_internal_kv_get",
    "_internal_kv_initialized",
    "_internal_kv_list",
    "_internal_kv_put",
]

_Text = bytes | str
_MESSAGE_BYTES = 1 << 16  # what is round a value when it travels


def _bytes(text: _Text | None) -> bytes:
    if text is None:
        return b""
    if not isinstance(text, bytes | str):
        raise TypeError(f"Keys, values and namespaces are bytes or str, not {type(text).__name__}.")
    return text.encode() if isinstance(text, str) else bytes(text)


def _check_size(*parts: bytes) -> None:
    """Refuse what no message can carry.

    Raises:
        ValueError: it is too large.
    """
    size = sum(map(len, parts))
    most = current_core().config.max_frame_bytes - _MESSAGE_BYTES
    if size > most:
        raise ValueError(
            f"A key and its value may have {most:,} bytes together, not {size:,}. Keep large "
            "values in the object store (nbray.put) or in files."
        )


def _ask(method: str, request: Any, reply_type: type[Any]) -> Any:
    reply = current_core().peers.gcs_call(method, msgspec.msgpack.encode(request))
    return msgspec.msgpack.decode(reply, type=reply_type)


def _key(key: _Text, namespace: _Text | None) -> g.KvKey:
    request = g.KvKey(_bytes(namespace), _bytes(key))
    _check_size(request.namespace, request.key)
    return request


def _internal_kv_initialized() -> bool:
    """Whether this process belongs to a cluster.

    Returns:
        True in drivers, tasks and actors.

    Examples:
        >>> from nbray.experimental.internal_kv import _internal_kv_initialized
        >>> _internal_kv_initialized()
        True
    """
    return is_initialized()


def _internal_kv_put(
    key: _Text, value: _Text, overwrite: bool = True, *, namespace: _Text | None = None
) -> bool:
    """Set a value; returns whether the key existed. Without ``overwrite`` an old value stays.

    Args:
        key: bytes or text; with its value at most 128 MB.
        value: bytes or text.
        overwrite: False leaves an old value.
        namespace: keys of another one are others.

    Returns:
        Whether the key existed.

    Raises:
        ValueError: it is too large for a message, or text that is no Unicode.

    Examples:
        >>> from nbray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
        >>> _internal_kv_put("greeting", "hello", namespace="example")
        False
        >>> _internal_kv_get("greeting", namespace="example")
        b'hello'
    """
    request = g.KvPut(_bytes(namespace), _bytes(key), _bytes(value), overwrite)
    _check_size(request.namespace, request.key, request.value)
    return not _ask("KvPut", request, g.KvCount).count


def _internal_kv_get(key: _Text, *, namespace: _Text | None = None) -> bytes | None:
    """The value of a key, or None.

    Args:
        key: bytes or text.
        namespace: where it is.

    Returns:
        The value, or None when there is no such key.

    Examples:
        >>> from nbray.experimental.internal_kv import _internal_kv_get
        >>> _internal_kv_get("there is none") is None
        True
    """
    value: bytes | None = _ask("KvGet", _key(key, namespace), g.KvValue).value
    return value


def _internal_kv_exists(key: _Text, *, namespace: _Text | None = None) -> bool:
    """Whether there is such a key.

    Args:
        key: bytes or text.
        namespace: where it is.

    Returns:
        True if there is.

    Examples:
        >>> from nbray.experimental.internal_kv import _internal_kv_exists
        >>> _internal_kv_exists("there is none")
        False
    """
    return bool(_ask("KvExists", _key(key, namespace), g.KvCount).count)


def _internal_kv_del(
    key: _Text, *, del_by_prefix: bool = False, namespace: _Text | None = None
) -> int:
    """Delete a key, or all that begin with it; returns how many.

    Args:
        key: bytes or text.
        del_by_prefix: delete all keys that begin with it.
        namespace: where they are.

    Returns:
        How many keys were deleted.

    Examples:
        >>> from nbray.experimental.internal_kv import _internal_kv_del, _internal_kv_put
        >>> _internal_kv_put("old/1", "x"), _internal_kv_put("old/2", "y")
        (False, False)
        >>> _internal_kv_del("old/", del_by_prefix=True)
        2
    """
    request = g.KvDel(_bytes(namespace), _bytes(key), del_by_prefix)
    _check_size(request.namespace, request.key)
    count: int = _ask("KvDel", request, g.KvCount).count
    return count


def _internal_kv_list(prefix: _Text, *, namespace: _Text | None = None) -> list[bytes]:
    """The keys that begin with ``prefix``.

    Args:
        prefix: bytes or text; empty for all keys.
        namespace: where they are.

    Returns:
        The keys.

    Examples:
        >>> from nbray.experimental.internal_kv import _internal_kv_list, _internal_kv_put
        >>> _internal_kv_put("run/1", "x", namespace="runs")
        False
        >>> _internal_kv_list("run/", namespace="runs")
        [b'run/1']
    """
    keys: list[bytes] = _ask("KvKeys", _key(prefix, namespace), g.KvKeys).keys
    return keys
