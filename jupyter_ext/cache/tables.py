"""Arrays and tables as content: of numpy, pandas and Arrow, as far as they are imported.

Their pickles say more than what is in them: how a table's columns lie together, what stood under a
missing value, from which buffer a slice was cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol


class Hasher(Protocol):
    """What counts in (`hashing.Hasher`)."""

    def mark(self, tag: str, *words: str | int) -> None: ...
    def memory(self, data: Any) -> None: ...
    def feed(self, value: Any, path: str) -> None: ...


_IN_MEMORY = "biufcmMSUV"
"""Kinds of data types whose items are what their bytes are."""


def is_plain(value: Any) -> bool:
    """Whether it is a scalar or a data type of numpy, which cannot change."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic | numpy.dtype)


def feed(hasher: Hasher, value: Any, path: str) -> bool:
    """Count in an array or a table; False: it is none that is known here."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if package not in _FEEDERS or package not in sys.modules:
        return False
    return _FEEDERS[package](hasher, value, kind.__name__, path)


def _numpy(hasher: Hasher, value: Any, kind: str, path: str) -> bool:
    import numpy

    if type(value) is not numpy.ndarray:
        return False
    _array(hasher, value, path)
    return True


def _array(hasher: Hasher, array: Any, path: str) -> None:
    import numpy

    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    hasher.mark("ndarray", order, *array.shape)
    if array.dtype.kind not in _IN_MEMORY:
        hasher.feed(array.dtype, f"{path}.dtype")
        hasher.feed(array.ravel(order).tolist(), path)
        return
    hasher.feed(array.dtype.descr if array.dtype.fields else array.dtype.str, path)
    if array.dtype.fields:  # what lies between fields is not content
        for name in array.dtype.fields:
            _array(hasher, array[name], f"{path}[{name!r}]")
        return
    flat = numpy.ascontiguousarray(array.ravel(order))
    hasher.memory(flat.view(numpy.uint8).data if flat.nbytes else b"")


def _pandas(hasher: Hasher, value: Any, kind: str, path: str) -> bool:
    pandas: Any = sys.modules["pandas"]

    if type(value) is pandas.DataFrame:
        hasher.mark("DataFrame", *value.shape)
        _index(hasher, value.columns, f"{path}.columns")
        _index(hasher, value.index, f"{path}.index")
        for number in range(value.shape[1]):
            _column(hasher, value.iloc[:, number].array, f"{path}.iloc[:, {number}]")
    elif type(value) is pandas.Series:
        hasher.mark("Series", len(value))
        hasher.feed(value.name, f"{path}.name")
        _index(hasher, value.index, f"{path}.index")
        _column(hasher, value.array, path)
    elif isinstance(value, pandas.Index):
        _index(hasher, value, path)
        return True
    else:
        return False
    hasher.feed(value.attrs, f"{path}.attrs")
    hasher.mark("flags", int(value.flags.allows_duplicate_labels))
    return True


def _index(hasher: Hasher, index: Any, path: str) -> None:
    pandas: Any = sys.modules["pandas"]

    hasher.mark("Index", type(index).__name__, len(index))
    hasher.feed(list(index.names), f"{path}.names")
    if isinstance(index, pandas.RangeIndex):
        hasher.mark("range", index.start, index.stop, index.step)
    elif isinstance(index, pandas.MultiIndex):
        for level, codes in zip(index.levels, index.codes, strict=True):
            _index(hasher, level, path)
            _array(hasher, codes, path)
    else:
        hasher.mark("freq", str(getattr(index, "freqstr", None)))
        _column(hasher, index.array, path)


def _column(hasher: Hasher, values: Any, path: str) -> None:
    import numpy

    pandas: Any = sys.modules["pandas"]

    dtype = values.dtype
    hasher.mark("column", type(values).__name__, str(dtype), len(values))
    if isinstance(dtype, numpy.dtype):
        _array(hasher, numpy.asarray(values), path)
    elif isinstance(dtype, pandas.CategoricalDtype):
        hasher.mark("categories", int(bool(dtype.ordered)))
        _index(hasher, dtype.categories, path)
        _array(hasher, values.codes, path)
    elif isinstance(dtype, pandas.DatetimeTZDtype):
        _array(hasher, values.asi8, path)
    elif isinstance(getattr(dtype, "numpy_dtype", None), numpy.dtype) and hasattr(values, "_mask"):
        missing = numpy.asarray(values.isna())
        _array(hasher, missing, path)
        plain = dtype.numpy_dtype
        _array(hasher, values.to_numpy(dtype=plain, na_value=plain.type(0)), path)
    else:
        hasher.feed(list(values), path)


def _pyarrow(hasher: Hasher, value: Any, kind: str, path: str) -> bool:
    pyarrow: Any = sys.modules["pyarrow"]

    if isinstance(value, pyarrow.Table | pyarrow.RecordBatch):
        hasher.mark("Arrow", kind, value.num_rows)
        metadata = value.schema.metadata
        hasher.feed(sorted(metadata.items()) if metadata else None, path)
        for field, column in zip(value.schema, value.columns, strict=True):
            hasher.mark("field", field.name, str(field.type), int(field.nullable))
            hasher.feed(sorted(field.metadata.items()) if field.metadata else None, path)
            _chunks(hasher, column, f"{path}[{field.name!r}]")
        return True
    if isinstance(value, pyarrow.ChunkedArray | pyarrow.Array):
        hasher.mark("Arrow", "array", str(value.type), len(value))
        _chunks(hasher, value, path)
        return True
    return False


def _chunks(hasher: Hasher, column: Any, path: str) -> None:
    pyarrow: Any = sys.modules["pyarrow"]

    kind = column.type
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        missing = column.is_null().to_numpy(zero_copy_only=False) if isinstance(
            column, pyarrow.Array
        ) else column.is_null().to_numpy()  # fmt: skip
        _array(hasher, missing, path)
        filled = column.fill_null(0)
        plain = (
            filled.to_numpy(zero_copy_only=False)
            if isinstance(filled, pyarrow.Array)
            else filled.to_numpy()
        )
        _array(hasher, plain, path)
    else:
        hasher.feed(column.to_pylist(), path)


_FEEDERS: dict[str, Callable[[Hasher, Any, str, str], bool]] = {
    "numpy": _numpy, "pandas": _pandas, "pyarrow": _pyarrow,
}  # fmt: skip
