"""cloudpickle, at Ray's path; functions keep the names of their files.

Newer versions of cloudpickle forget where a function was written, so that its traceback has no
lines. Here the name travels beside the code.
"""

from __future__ import annotations

import io
from collections import ChainMap
from collections.abc import Callable
from types import CodeType
from typing import IO, Any, ClassVar

import cloudpickle as _library

load = _library.load
loads = _library.loads
DEFAULT_PROTOCOL = _library.DEFAULT_PROTOCOL


def _named_code(filename: str, make: Callable[..., CodeType], *args: Any) -> CodeType:
    return make(*args).replace(co_filename=filename)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    make, args = _library.Pickler.dispatch_table[CodeType](code)
    return _named_code, (code.co_filename, make, *args)


class _Reducers(ChainMap[type, Any]):
    """How classes are pickled; those of pyarrow are looked at when the first of them comes."""

    def __missing__(self, cls: type) -> Any:
        if cls.__module__.partition(".")[0] == "pyarrow":
            from nbray.util.arrow_slices import reduce_slice, slices

            if issubclass(cls, slices()):
                return reduce_slice
        raise KeyError(cls)


class Pickler(_library.Pickler):  # type: ignore[misc]
    """Pickles what cloudpickle pickles."""

    dispatch_table: ClassVar[ChainMap[type, Any]] = _Reducers(
        {CodeType: _reduce_code}, _library.Pickler.dispatch_table
    )


def dump(
    value: Any,
    file: IO[bytes],
    protocol: int | None = None,
    buffer_callback: Callable[[Any], Any] | None = None,
) -> None:
    """Pickle ``value`` into ``file``, as `pickle.dump` does.

    Raises:
        Exception: it cannot be pickled; a value's own code may raise anything.
    """
    Pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)


def dumps(
    value: Any,
    protocol: int | None = None,
    buffer_callback: Callable[[Any], Any] | None = None,
) -> bytes:
    """The pickle of ``value``, as `pickle.dumps` makes it; raises as `dump` does."""
    file = io.BytesIO()
    dump(value, file, protocol, buffer_callback)
    return file.getvalue()
