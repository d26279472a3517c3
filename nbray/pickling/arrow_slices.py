"""Slices of Arrow's tables and arrays are pickled without the rest of what they were cut from."""

from __future__ import annotations

import importlib
import pickle
from typing import Any

_LEAST_BYTES = 4096
_COLUMN = "0"


def slices() -> tuple[type, ...]:
    """The classes whose objects may be slices."""
    pa = _arrow()
    return pa.Table, pa.RecordBatch, pa.Array, pa.ChunkedArray


def reduce_slice(value: Any) -> Any:
    """How one is pickled: a slice by Arrow's own format, anything else as Arrow does."""
    pa = _arrow()
    try:
        held, shown = value.get_total_buffer_size(), value.nbytes
        if held - shown < max(_LEAST_BYTES, shown // 8):
            return value.__reduce_ex__(5)
        if not len(value):  # whose buffers the format would leave as they are
            return value.take(pa.array([], pa.int64())).__reduce_ex__(5)
        if isinstance(value, pa.Table | pa.RecordBatch):
            table = value
        elif isinstance(value, pa.ChunkedArray):
            table = pa.table([value], [_COLUMN])
        else:
            table = pa.record_batch([value], [_COLUMN])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write(table)
    except (pa.ArrowException, NotImplementedError):  # a type that the format does not know
        return value.__reduce_ex__(5)
    kind = next(cls for cls in slices() if isinstance(value, cls))
    return _read, (kind.__name__, pickle.PickleBuffer(sink.getvalue()))


def _read(kind: str, data: Any) -> Any:
    pa = _arrow()
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        if kind == "Table":
            return reader.read_all()
        if kind == "ChunkedArray":
            return reader.read_all().column(0)
        batch = reader.read_next_batch()
    return batch if kind == "RecordBatch" else batch.column(0)


def _arrow() -> Any:
    return importlib.import_module("pyarrow")
