"""Copies of values that are small and can be pickled; of the others, how they are shown."""

from __future__ import annotations

import io
import pickle
from types import FunctionType, ModuleType
from typing import Any

from nbray import cloudpickle

from .pictures import Kept
from .showing import short

_HANDLES = frozenset(
    {"ObjectRef", "ActorHandle", "ObjectRefGenerator", "DynamicObjectRefGenerator"}
)
"""A pickle would hold what they stand for as long as this process lives."""


class TooLarge(Exception):
    """A pickle gets larger than it may."""


class _Bounded(io.RawIOBase):
    def __init__(self, limit: int) -> None:
        self._left = limit
        self.parts: list[bytes] = []

    def write(self, data: Any) -> int:
        size: int = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise TooLarge
        self.parts.append(bytes(data))
        return size


class _Pickler(cloudpickle.Pickler):
    """Stops as soon as it is clear that a value is large, before anything large is copied."""

    def __init__(self, file: Any, limit: int) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._check)
        self._limit = limit

    def _check(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            size = buffer.raw().nbytes
        except BufferError:  # it is strided, and copied by its own class
            return True
        if size > self._limit:
            raise TooLarge
        return True

    def reducer_override(self, obj: Any) -> Any:
        if _size(obj) > self._limit:
            raise TooLarge
        if type(obj).__name__ in _HANDLES:
            raise pickle.PicklingError("a handle stays where it is")
        return super().reducer_override(obj)


def _size(value: Any) -> int:
    """The bytes of an array or a frame; 0 when that is not known at once."""
    kind = type(value)
    root = (kind.__module__ or "").partition(".")[0]
    if root in ("numpy", "pyarrow", "torch", "cupy", "jax", "jaxlib", "polars"):
        size = getattr(value, "nbytes", 0)
        return size if isinstance(size, int) else 0
    if root == "pandas" and hasattr(value, "memory_usage"):
        used = value.memory_usage(deep=False)
        return int(used.sum() if hasattr(used, "sum") else used)
    return 0


def keep(value: Any, limit: int) -> Kept:
    """A copy of ``value`` of at most ``limit`` bytes, or its text. Runs the code of its class."""
    kind = type(value).__qualname__
    if isinstance(value, ModuleType):
        return Kept("module", kind, value.__name__)
    if isinstance(value, FunctionType | type) and value.__module__ == "__main__":
        return Kept("main", kind, value.__qualname__)
    if type(value).__name__ not in _HANDLES and not _is_long(value, limit):
        file = _Bounded(limit)
        try:
            _Pickler(file, limit).dump(value)
            return Kept("pickle", kind, pickle=b"".join(file.parts))
        except Exception:  # too large, or the code of the user's class; it is shown instead
            file.parts.clear()
    return Kept("text", kind, short(value))


def _is_long(value: Any, limit: int) -> bool:
    return isinstance(value, str | bytes | bytearray | list | tuple | dict | set) and (
        len(value) > limit
    )
