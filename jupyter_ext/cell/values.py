"""What this notebook has sent to remote cells: large parts stay in the object store.

A large array or a bulky value is stored the first time that a cell reads its name, and sent
again only when it has changed. That is decided by a CRC-32 of all its bytes (4 GB/s), not of a
sample: an array that was changed in place and not noticed would be a wrong result without a
word. A part is compared with the earlier version of itself alone (same name, same place in it,
same length), so a wrong match has a chance of 1 in 4 billion for each change.

The last version of a name stays in the store as long as the name keeps its value or until
``%nbray objects --release NAME``. An array that came from the cluster and is still the same
object travels as the ref that it came from.
"""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy

from nbray.exceptions import ObjectStoreFullError, OutOfDiskError
from nbray.notebook import Memory, ObjectRef, engine
from nbray.pickling.unpicklable import UnpicklablePart, find_unpicklable

from ..messages import Buffer, Bulky, Parcel
from ..worker.parcel import LARGE_BYTES, dump

Key = tuple[str, str, int]
"""Name in the notebook, pickle or memory, and its number in the value."""


class CannotSendError(TypeError):
    """A value that the cell reads cannot be pickled.

    Attributes:
        name: its name in the notebook.
        path: the part of it that cannot.
    """

    def __init__(self, name: str, value: object, part: UnpicklablePart) -> None:
        kind = type(part.value).__name__
        what = f"{name!r}, a {type(value).__name__} that cannot be sent to a worker"
        if part.value is not value:
            what = f"{name!r}, and {part.path} is a {kind} that cannot be sent to a worker"
        super().__init__(
            f"The cell reads {what} ({part.reason}). Make it inside the remote cell, or do "
            "not use it there."
        )
        self.name = name
        self.path = part.path


@dataclass(frozen=True)
class Entry:
    """One part in the object store."""

    name: str
    size: int
    checksum: int
    ref: ObjectRef


@dataclass
class Packed:
    """A parcel, the refs of its parts, and what was sent for it.

    Attributes:
        new_bytes: bytes that were not there before, by name.
        inline_bytes: bytes of the parcel itself.
    """

    parcel: Parcel
    parts: list[ObjectRef] = field(default_factory=list)
    new_bytes: dict[str, int] = field(default_factory=dict)
    inline_bytes: int = 0


@dataclass(frozen=True)
class _Origin:
    """Where a value came from, and what it was then."""

    value: weakref.ref[Any]
    ref: ObjectRef
    memory: Memory
    mark: object


def _mark(value: Any, memory: Memory) -> object:
    return (
        value.dtype.str,
        value.shape,
        value.strides,
        memory.mark(memoryview(value.ravel("K")).cast("B")),
    )


class SentValues:
    """The parts that are in the object store for this notebook's names."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._values: dict[str, int] = {}
        self._origins: dict[str, _Origin] = {}

    def entries(self) -> list[Entry]:
        """One entry for each name, with the sum of its parts."""
        sizes: dict[str, int] = {}
        for entry in self._entries.values():
            sizes[entry.name] = sizes.get(entry.name, 0) + entry.size
        found = {entry.name: entry for entry in self._entries.values()}
        return [Entry(name, sizes[name], 0, entry.ref) for name, entry in found.items()]

    def drop(self, name: str) -> bool:
        """Let go of what was sent for ``name``; False when nothing was."""
        keys = [key for key, entry in self._entries.items() if entry.name == name]
        for key in keys:
            del self._entries[key]
        return bool(self._origins.pop(name, None)) or bool(keys)

    def clear(self) -> None:
        """The cluster has gone, and all that was in it."""
        self._entries.clear()
        self._values.clear()
        self._origins.clear()

    def came_from(self, name: str, value: Any, ref: ObjectRef, memory: Memory) -> None:
        """``value`` was read from the cluster: while it is the same, its ref is as good.

        ``memory`` knows whether it is.
        """
        if type(value) is numpy.ndarray and value.flags.forc:
            self._origins[name] = _Origin(weakref.ref(value), ref, memory, _mark(value, memory))

    def origin(self, name: str, value: Any) -> ObjectRef | None:
        """The ref that ``value`` came from, if it still stands for it."""
        found = self._origins.get(name)
        if found is None:
            return None
        if found.value() is not value or _mark(value, found.memory) != found.mark:
            self._origins.pop(name, None)
            return None
        return found.ref

    def forget_missing(self, namespace: Mapping[str, Any], keep: Iterable[str] = ()) -> None:
        """Let go of what belongs to names that are gone or have another value, ``keep`` apart.

        A name of ``keep`` is about to be sent: if its new value is like the old one, that stays.
        """
        kept = set(keep)
        for name, identity in list(self._values.items()):
            if name not in namespace or (
                name not in kept and name and id(namespace[name]) != identity
            ):
                del self._values[name]
                self.drop(name)

    def pack(
        self,
        values: Mapping[str, Any],
        reached: Mapping[str, Any],
        passed: Mapping[int, str],
        home: dict[str, Any],
    ) -> Packed:
        """Make the parcel of a cell; puts those parts into the store that are not there.

        Args:
            values: what the cell needs by name.
            reached: what the functions among them read further.
            passed: the names of values that travel by other ways, by their ids.
            home: the notebook's namespace.

        Raises:
            CannotSendError: a value cannot be pickled. Nothing was sent.
            OutOfDiskError: there is no room for a part.
        """
        known: dict[int, tuple[str, str]] = {i: ("passed", name) for i, name in passed.items()}
        refs: list[ObjectRef] = []
        places: dict[int, Key] = {}
        bulky: dict[str, tuple[bytes, list[memoryview]]] = {}
        both = {**reached, **values}
        for name in sorted(both, key=lambda name: (_is_code(both[name]), name)):
            value = both[name]
            if name not in values and isinstance(
                value, FunctionType | type | engine().api.RemoteFunction
            ):
                continue  # pickled with the function that reads it
            found: list[ObjectRef] = []
            try:
                stream, buffers = dump(value, known, found, home, values)
            except Exception as error:  # a pickle runs the user's own __reduce__ and __getstate__
                raise _cannot_send(name, value, known, home, error) from error
            for number, buffer in enumerate(buffers):
                if buffer.nbytes > LARGE_BYTES:
                    places.setdefault(_address(buffer), (name, "memory", number))
            if len(stream) > LARGE_BYTES:
                stream, buffers = dump(value, known, refs, home, values)
                bulky[name] = stream, buffers
                known[id(value)] = "bulky", name
        small = {name: value for name, value in values.items() if name not in bulky}
        stream, buffers = dump(small, known, refs, home, values)

        packed = Packed(Parcel(b"", (), {}, []))
        used: set[Key] = set()

        def part(key: Key, data: Any) -> int:
            if key in used:
                key = (key[0], f"{key[1]} again", len(used))
            used.add(key)
            packed.parts.append(self._stored(key, data, packed))
            return len(packed.parts) - 1

        def place(buffers: Iterable[memoryview]) -> tuple[Buffer, ...]:
            return tuple(
                part(places.get(_address(buffer), ("", "memory", number)), buffer)
                if buffer.nbytes > LARGE_BYTES
                else bytes(buffer)
                for number, buffer in enumerate(buffers)
            )

        plans = {
            name: Bulky(part((name, "pickle", 0), memoryview(bulky_stream)), place(memory))
            for name, (bulky_stream, memory) in bulky.items()
        }
        packed.parcel = Parcel(stream, place(buffers), plans, refs)
        packed.inline_bytes = len(stream) + sum(
            len(buffer) for buffer in packed.parcel.buffers if isinstance(buffer, bytes)
        )
        for key in [key for key in self._entries if key not in used and key[0] in (*both, "")]:
            del self._entries[key]
        for name in {key[0] for key in used}:
            self._values[name] = id(both.get(name))
        return packed

    def _stored(self, key: Key, data: memoryview, packed: Packed) -> ObjectRef:
        checksum = zlib.crc32(data)
        entry = self._entries.get(key)
        if entry is None or (entry.size, entry.checksum) != (data.nbytes, checksum):
            self._entries.pop(key, None)
            array = numpy.frombuffer(data, numpy.uint8)
            try:
                ref = engine().api.put(array)
            except (ObjectStoreFullError, OutOfDiskError):
                self._make_room(packed)
                try:
                    ref = engine().api.put(array)
                except (ObjectStoreFullError, OutOfDiskError) as error:
                    what = f"It is memory of {key[0]!r}, which the cell reads."
                    raise type(error)(f"{error}\n{what}") from None
            entry = self._entries[key] = Entry(key[0], data.nbytes, checksum, ref)
            packed.new_bytes[key[0]] = packed.new_bytes.get(key[0], 0) + data.nbytes
        return entry.ref

    def _make_room(self, packed: Packed) -> None:
        """Let go of everything that this parcel does not use."""
        mine = set(packed.parts)
        for key in [key for key, entry in self._entries.items() if entry.ref not in mine]:
            del self._entries[key]


def _address(memory: memoryview) -> int:
    return int(numpy.frombuffer(memory, numpy.uint8).ctypes.data)


def _is_code(value: Any) -> bool:
    return isinstance(value, FunctionType | type) or (
        type(value).__module__ == "__main__" or isinstance(value, engine().api.RemoteFunction)
    )


def _cannot_send(
    name: str,
    value: Any,
    known: Mapping[int, tuple[str, str]],
    home: dict[str, Any],
    error: Exception,
) -> CannotSendError:
    found = find_unpicklable(name, value, lambda part: dump(part, known, [], home))
    return CannotSendError(name, value, found or UnpicklablePart(name, value, str(error)))
