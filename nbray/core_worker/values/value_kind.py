"""What a value is, in a few words, for pictures of refs: nothing of the user's runs for it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sized
from typing import Any

_ARRAYS = frozenset({"numpy", "pandas", "pyarrow", "polars", "torch", "scipy"})


def kind_of(value: Any) -> str:
    """``ndarray (1000, 10) float64``, ``list of 3``, ``Thing``."""
    words = [type(value).__name__]
    if type(value).__module__.partition(".")[0] in _ARRAYS:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if isinstance(shape, tuple):
            words.append(str(tuple(shape)))
        if dtype is not None:
            words.append(str(dtype))
    elif type(value).__module__ == "builtins" and isinstance(value, Sized):
        words.append(f"of {len(value)}")
    return " ".join(words)


class _Refused(Exception):
    """A class was met; its name is all that is wanted."""


class _NamesOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise _Refused(global_name if global_name != "_frombuffer" else "ndarray")


def kind_in(data: bytes) -> str:
    """The kind of a small value in its flat form (see `serialization`), or "" if it does not show.

    No class is looked up: of a value that needs one, the first name is given.
    """
    if data[:4] != b"\0\0\0\0":
        stream = io.BytesIO(data[8 + 8 * (int.from_bytes(data[:4], "little") + 1) :])
    else:
        stream = io.BytesIO(data[4:])
    try:
        return kind_of(_NamesOnly(stream, buffers=[]).load())
    except _Refused as found:
        name = str(found)
        return "" if name.startswith("_") or "." in name else name
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError):
        return ""
