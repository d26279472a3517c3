"""The GCS is killed, comes back with its tables, and the cluster goes on."""

from __future__ import annotations

import nbray
from nbray.experimental import internal_kv as kv


def test_the_key_value_space_is_rays(cluster: object) -> None:
    assert kv._internal_kv_put("a", b"1") is False
    assert kv._internal_kv_put("a", "2", overwrite=False) is True
    assert kv._internal_kv_get(b"a") == b"1"
    assert kv._internal_kv_put("a", "2") is True
    assert kv._internal_kv_get("a") == b"2"
    kv._internal_kv_put("ab", b"", namespace="n")
    kv._internal_kv_put("ac", b"3", namespace="n")
    assert sorted(kv._internal_kv_list("a", namespace="n")) == [b"ab", b"ac"]
    assert kv._internal_kv_list("a") == [b"a"]
    assert kv._internal_kv_exists("ab", namespace=b"n")
    assert kv._internal_kv_del("a", del_by_prefix=True, namespace="n") == 2
    assert not kv._internal_kv_exists("ab", namespace="n")
    assert kv._internal_kv_del("nothing") == 0
    assert kv._internal_kv_get("nothing") is None
    assert nbray.is_initialized()
