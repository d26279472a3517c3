"""Bytes by key that outlive a notebook: in a detached actor, since Ray's own store is not public.

They end with the cluster, and with the node that the actor is on, which is the head if it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .post import NAMESPACE

_NAME = "nbray-shelf"
_ANSWER_S = 60.0


class Shelf:
    """The actor."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def put(self, key: bytes, value: bytes, overwrite: bool) -> bool:
        """Store a value; whether there was one."""
        there = key in self._values
        if overwrite or not there:
            self._values[key] = value
        return there

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys."""
        return [self._values.get(key) for key in keys]

    def delete(self, key: bytes, prefix: bool) -> None:
        """Delete a key, or all that begin with it."""
        for one in [one for one in self._values if one == key or (prefix and one.startswith(key))]:
            del self._values[one]

    def keys(self, prefix: bytes) -> list[bytes]:
        """All that begin so."""
        return [key for key in self._values if key.startswith(prefix)]


class ShelfSpace:
    """`nbray.notebook.Space` on that actor, which is made when the first value is stored."""

    def __init__(self, api: Any, near_head: Any) -> None:
        self._api = api
        self._near_head = near_head

    def _ask(self, method: str, *arguments: Any) -> Any:
        shelf = self._api.remote(Shelf).options(
            name=_NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0,
            scheduling_strategy=self._near_head(),
        ).remote()  # fmt: skip
        return self._api.get(getattr(shelf, method).remote(*arguments), timeout=_ANSWER_S)

    def put(self, key: bytes, value: bytes, *, overwrite: bool = True) -> bool:
        """See `nbray.notebook.Space`."""
        there: bool = self._ask("put", key, value, overwrite)
        return there

    def get(self, key: bytes) -> bytes | None:
        """See `nbray.notebook.Space`."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `nbray.notebook.Space`."""
        found: list[bytes | None] = self._ask("get_many", list(keys))
        return found

    def delete(self, key: bytes, *, prefix: bool = False) -> None:
        """See `nbray.notebook.Space`."""
        self._ask("delete", key, prefix)

    def keys(self, prefix: bytes) -> list[bytes]:
        """See `nbray.notebook.Space`."""
        found: list[bytes] = self._ask("keys", prefix)
        return found
