"""Values to bytes and back: pickle protocol 5, with buffers out of band.

A serialized value is: a 32-bit number of buffers, the 64-bit length of the pickle and of each
buffer, the pickle, and the buffers, each at a multiple of 64 bytes so that arrays are aligned
when they are read in place.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from nbray import cloudpickle
from nbray.core_worker.values.copying import copy_into
from nbray.exceptions import OufOfBandObjectRefSerializationException
from nbray.wire.records import Address, ContainedRef

_PLAIN = struct.Struct("<I")
SIMPLE = frozenset({type(None), bool, int, float, str, bytes})
"""Types whose values hold nothing else, so that pickle itself knows all of them."""

_ALIGN = 64
_NO_BUFFERS = bytes(4)
_SMALL = 1024
_COPIED = 1 << 22

_FORBIDS = "RAY_allow_out_of_band_object_ref_serialization"


class Ref(Protocol):
    """An ObjectRef, which knows this module."""

    _core: Any
    _id: bytes
    _owner: Address

    def hex(self) -> str:
        """The id as hexadecimal text."""


Rebuild = Callable[[bytes, Address], Any]


class Adopts(Protocol):
    """The runtime, as a ref sees it that was unpickled by the program itself."""

    def adopted_ref(self, object_id: bytes, owner: Address) -> Any:
        """A ref that stood in no value that nbray knows."""


class _Context(threading.local):
    """What this thread meets while it pickles or unpickles."""

    contained: list[ContainedRef] | None = None
    captured: list[Any] | None = None
    rebuild: Rebuild | None = None


context = _Context()
_home: Adopts | None = None


class Serialized:
    """A pickled value: its stream, its buffers and the refs that stand in it."""

    __slots__ = ("buffers", "contained", "size", "stream", "value")

    def __init__(
        self,
        value: Any,
        stream: bytes,
        buffers: Sequence[memoryview],
        contained: tuple[ContainedRef, ...],
    ) -> None:
        self.value = value
        self.stream = stream
        self.buffers = buffers
        self.contained = contained
        if buffers:
            size = _header_size(len(buffers)) + len(stream)
            for buffer in buffers:
                size = _aligned(size) + buffer.nbytes
            self.size = size
        else:
            self.size = 4 + len(stream)

    def to_bytes(self) -> bytes:
        """The flat form, for a value that travels inline."""
        if not self.buffers:
            return b"\0\0\0\0" + self.stream
        flat = bytearray(self.size)
        self.write_into(memoryview(flat))
        return bytes(flat)

    def parts(self) -> Iterator[bytes | memoryview]:
        """The flat form, part by part and without a copy of its buffers."""
        count = len(self.buffers)
        if not count:
            yield b"\0\0\0\0"
            yield self.stream
            return
        lengths = [len(self.stream), *(buffer.nbytes for buffer in self.buffers)]
        yield struct.pack(f"<I4x{count + 1}Q", count, *lengths)
        yield self.stream
        position = _header_size(count) + len(self.stream)
        for buffer in self.buffers:
            yield bytes(_aligned(position) - position)
            yield buffer
            position = _aligned(position) + buffer.nbytes

    def write_into(self, target: memoryview) -> None:
        """Write the flat form into ``target``, which has at least `size` bytes."""
        count = len(self.buffers)
        if not count:
            target[:4] = b"\0\0\0\0"
            target[4 : 4 + len(self.stream)] = self.stream
            return
        lengths = [len(self.stream), *(buffer.nbytes for buffer in self.buffers)]
        struct.pack_into(f"<I4x{count + 1}Q", target, 0, count, *lengths)
        position = _header_size(count)
        target[position : position + len(self.stream)] = self.stream
        position += len(self.stream)
        for buffer in self.buffers:
            position = _aligned(position)
            copy_into(target[position : position + buffer.nbytes], buffer)
            position += buffer.nbytes


def flat(value: Any) -> bytes:
    """The flat form of a value that is made of nothing but lists, dicts and `SIMPLE` values."""
    return b"\0\0\0\0" + pickle.dumps(value, 5)


def _header_size(buffers: int) -> int:
    return 8 + 8 * (buffers + 1)


def _aligned(position: int) -> int:
    return (position + _ALIGN - 1) // _ALIGN * _ALIGN


def check_current(ref: Ref) -> None:
    """Refuse a ref that this process has kept from before a `shutdown`.

    Raises:
        ValueError: it is one; the text begins as Ray's.
    """
    if ref._core.reactor.stopped:
        raise ValueError(
            f"An application is trying to access an object whose owner is unknown ({ref.hex()}). "
            "The ref is of an earlier session, whose objects went with nbray.shutdown(), or it was "
            "made from an id, which does not tell the owner."
        )


def reduce_ref(ref: Ref) -> tuple[Any, ...]:
    """How an ObjectRef pickles: noted as contained in the value that is being pickled.

    One that a function captures is noted as such. Any other pickle is the program's own: nobody
    can know how long it will be kept, so the object is, as long as this process lives. That is
    Ray's rule for refs that are serialized out of band.
    """
    check_current(ref)
    owner = ref._owner
    if context.contained is not None:
        context.contained.append(ContainedRef(ref._id, owner))
    elif context.captured is not None:
        context.captured.append(ref)
    elif os.environ.get(_FORBIDS, "1").lower() not in ("0", "false"):
        ref._core.pickled_refs.add(ref)
    else:
        raise OufOfBandObjectRefSerializationException(
            f"{ref!r} is pickled by the program itself, which the variable {_FORBIDS}=0 forbids: "
            "nobody could know how long its value is needed. Pass it to a task, an actor or put()."
        )
    return _rebuild_ref, (ref._id, owner)  # refs of one owner share its pickle


def set_home(home: Adopts | None) -> None:
    """``home`` is this process's runtime from now on."""
    global _home
    _home = home


def _rebuild_ref(object_id: bytes, owner: Address) -> Any:
    if context.rebuild is not None:
        return context.rebuild(object_id, owner)
    if _home is None:
        raise RuntimeError(
            "An ObjectRef can only be unpickled where nbray is initialized: call nbray.init()."
        )
    return _home.adopted_ref(object_id, owner)


@contextmanager
def rebuilding(rebuild: Rebuild) -> Iterator[None]:
    """Inside, ``rebuild`` makes the ObjectRefs of whatever is unpickled."""
    outer, context.rebuild = context.rebuild, rebuild
    try:
        yield
    finally:
        context.rebuild = outer


def dump(
    value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
) -> tuple[bytes, tuple[Any, ...]]:
    """Pickle a function, a class, or a value that is not sent.

    Args:
        value: what is pickled.
        buffer_callback: as `pickle.Pickler` takes it.

    Returns:
        The pickle, and the refs that stand in it: whoever keeps the pickle holds them.

    Raises:
        Exception: something in it cannot be pickled; a value's own code may raise anything.
    """
    captured: list[Any] = []
    outer = context.contained, context.captured
    context.contained, context.captured = None, captured
    try:
        return cloudpickle.dumps(value, 5, buffer_callback), tuple(captured)
    finally:
        context.contained, context.captured = outer


def serialize(value: Any) -> Serialized:
    """Pickle ``value``.

    Raises:
        TypeError, pickle.PicklingError: it cannot be pickled.
    """
    if type(value) in SIMPLE:
        return Serialized(value, pickle.dumps(value, 5), (), ())
    buffers: list[memoryview] = []
    contained: list[ContainedRef] = []
    outer, context.contained = context.contained, contained
    try:
        stream = io.BytesIO()
        # PickleBuffer.raw() refuses strided memory, which then stays in the stream.
        cloudpickle.Pickler(
            stream, protocol=5, buffer_callback=lambda b: _out_of_band(b, buffers)
        ).dump(value)
    finally:
        context.contained = outer
    return Serialized(value, stream.getvalue(), buffers, tuple(contained))


def _out_of_band(buffer: pickle.PickleBuffer, buffers: list[memoryview]) -> bool:
    try:
        raw = buffer.raw()
    except BufferError:
        return True
    buffers.append(raw)
    return False


class _WithRefs(pickle.Unpickler):
    """Finds the maker of this value's refs where the pickle names the one of all."""

    def __init__(
        self, stream: memoryview, rebuild: Rebuild, buffers: Sequence[memoryview] = ()
    ) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._rebuild = rebuild

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle names."""
        if name == _rebuild_ref.__name__ and module == __name__:
            return self._rebuild
        return super().find_class(module, name)


def deserialize(data: bytes | memoryview, rebuild: Rebuild | None, with_refs: bool = False) -> Any:
    """The value of a flat form; arrays refer to ``data`` without a copy, and cannot be written to.

    Those of a small value, which is ``bytes``, are the reader's own and can.
    ``rebuild`` makes the ObjectRefs that stand in the value; ``with_refs``: there are some.
    """
    outer = context.rebuild
    if outer is None and rebuild is None and type(data) is bytes and data[:4] == _NO_BUFFERS:
        return pickle.loads(data[4:] if len(data) <= _SMALL else memoryview(data)[4:])
    context.rebuild = rebuild
    try:
        view = memoryview(data)
        (count,) = _PLAIN.unpack_from(view)
        if not count:
            stream = view[4:]
            if with_refs and rebuild is not None and len(stream) <= _COPIED:
                return _WithRefs(stream, rebuild).load()
            return pickle.loads(stream)
        stream_length, *lengths = struct.unpack_from(f"<{count + 1}Q", view, 8)
        position = _header_size(count)
        stream = view[position : position + stream_length]
        position += stream_length
        view = memoryview(bytearray(data)) if type(data) is bytes else view.toreadonly()
        buffers = []
        for length in lengths:
            position = _aligned(position)
            buffers.append(view[position : position + length])
            position += length
        if with_refs and rebuild is not None and len(stream) <= _COPIED:
            return _WithRefs(stream, rebuild, buffers).load()
        return pickle.loads(stream, buffers=buffers)
    finally:
        context.rebuild = outer
