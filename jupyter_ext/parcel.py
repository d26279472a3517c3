"""What travels with a remote cell: one small pickle, and large parts that are stored once.

All values of a cell are pickled together, so that what they share stays shared; functions of the
notebook share the cell's namespace as their globals. Two things stay outside of that pickle, as
*parts* of their own in the object store: memory of arrays above `LARGE_BYTES`, wherever it
stands in a value, and *bulky* values whose own pickle is above it (a long list). `Parcel` says how
the parts go together again; `nbray.jupyter_ext.sent_values` decides which of them are there
already.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nbray
from nbray import cloudpickle

LARGE_BYTES = 100 * 1024
"""Larger memory becomes a part of its own."""

Buffer = bytes | int
"""Small memory as it is, or the number of the part that it is."""


@dataclass(frozen=True)
class Bulky:
    """A value that is a part of its own: the number of its pickle's part, and its memory."""

    stream: int
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True)
class Parcel:
    """The small pickle and the plan of the rest.

    Attributes:
        stream: the pickle.
        buffers: the memory that stands outside of it, in order.
        bulky: the values that are parts, by name.
        refs: the ObjectRefs that occur anywhere; they arrive as refs.
    """

    stream: bytes
    buffers: tuple[Buffer, ...]
    bulky: dict[str, Bulky]
    refs: list[nbray.ObjectRef]


class Packer(cloudpickle.Pickler):
    """Pickles values for a cell; known ones become names, refs become numbers."""

    def __init__(
        self,
        file: io.BytesIO,
        known: Mapping[int, tuple[str, str]],
        refs: list[nbray.ObjectRef],
        buffers: list[memoryview],
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=lambda b: _out_of_band(b, buffers))
        self._known = known
        self._refs = refs

    def persistent_id(self, value: Any) -> tuple[str, Any] | None:
        """What stands for ``value`` in the pickle, None for itself."""
        if isinstance(value, nbray.ObjectRef):
            self._refs.append(value)
            return "ref", len(self._refs) - 1
        return self._known.get(id(value))


def dump(
    value: Any,
    known: Mapping[int, tuple[str, str]],
    refs: list[nbray.ObjectRef],
) -> tuple[bytes, list[memoryview]]:
    """The pickle of ``value`` and the memory outside of it.

    Args:
        value: what to pickle.
        known: what stands for the values with these ids.
        refs: the ObjectRefs so far; those in ``value`` are appended.
    """
    file, buffers = io.BytesIO(), list[memoryview]()
    Packer(file, known, refs, buffers).dump(value)
    return file.getvalue(), buffers


def _out_of_band(buffer: pickle.PickleBuffer, buffers: list[memoryview]) -> bool:
    try:
        buffers.append(buffer.raw())
    except BufferError:  # strided memory
        return True
    return False


class _Opener(pickle.Unpickler):
    def __init__(
        self,
        stream: Any,
        buffers: Sequence[Any],
        refs: Sequence[nbray.ObjectRef],
        find: Callable[[str, str], Any],
    ) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._refs = refs
        self._find = find

    def persistent_load(self, token: tuple[str, Any]) -> Any:
        kind, what = token
        return self._refs[what] if kind == "ref" else self._find(kind, what)


def unpack(
    parcel: Parcel, parts: Sequence[Any], passed: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The value that was packed, and the bulky ones by name.

    Args:
        parcel: the plan.
        parts: the values of its parts, in order.
        passed: values that came in other ways, by name.
    """
    opened: dict[str, Any] = {}

    def load(stream: Any, buffers: Sequence[Buffer]) -> Any:
        memory = [parts[b] if isinstance(b, int) else bytearray(b) for b in buffers]
        return _Opener(stream, memory, parcel.refs, find).load()

    def find(kind: str, name: str) -> Any:
        if kind == "passed":
            return passed[name]
        if name not in opened:
            bulky = parcel.bulky[name]
            opened[name] = load(parts[bulky.stream], bulky.buffers)
        return opened[name]

    value = load(parcel.stream, parcel.buffers)
    for name in parcel.bulky:
        find("bulky", name)
    return value, opened
