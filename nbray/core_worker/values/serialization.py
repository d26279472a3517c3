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
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

from nbray import cloudpickle
from nbray.core_worker.values.copying import copy_into
from nbray.exceptions import OufOfBandObjectRefSerializationException
from nbray.object_ref import ObjectRef
from nbray.wire.records import Address, ContainedRefs

_PLAIN = struct.Struct("<I")
SIMPLE = frozenset({type(None), bool, int, float, str, bytes})
"""Types whose values hold nothing else, so that pickle itself knows all of them."""

_ALIGN = 64
_NO_BUFFERS = bytes(4)
_ONE_BUFFER = _PLAIN.pack(1)
_OF_ONE = struct.Struct("<8xQQ")
_SMALL = 1024
_COPIED = 1 << 22

_id_of, _owner_of = attrgetter("_id"), attrgetter("_kin.owner")
_FORBIDS = "RAY_allow_out_of_band_object_ref_serialization"


Rebuild = Callable[[bytes, Address], ObjectRef]


class Adopts(Protocol):
    """The runtime, as a ref sees it that was unpickled by the program itself."""

    def adopted_ref(self, object_id: bytes, owner: Address) -> ObjectRef:
        """A ref that stood in no value that nbray knows."""


class _Context(threading.local):
    """What this thread meets while it pickles or unpickles."""

    contained: list[ObjectRef] | None = None
    captured: list[ObjectRef] | None = None
    rebuild: Rebuild | None = None
    refs: Sequence[ObjectRef] = ()


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
        contained: tuple[ContainedRefs, ...],
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


def reduce_ref(ref: ObjectRef) -> tuple[Any, ...]:
    """How an ObjectRef pickles: noted as contained in the value that is being pickled.

    One that a function captures is noted as such. Any other pickle is the program's own: nobody
    can know how long it will be kept, so the object is, as long as this process lives. That is
    Ray's rule for refs that are serialized out of band.
    """
    kin = ref._kin
    if context.contained is not None:
        context.contained.append(ref)
    elif context.captured is not None:
        context.captured.append(ref)
    elif os.environ.get(_FORBIDS, "1").lower() not in ("0", "false"):
        kin.core.pickled_refs.add(ref)
    else:
        raise OufOfBandObjectRefSerializationException(
            f"{ref!r} is pickled by the program itself, which the variable {_FORBIDS}=0 forbids: "
            "nobody could know how long its value is needed. Pass it to a task, an actor or put()."
        )
    return _rebuild_ref, (ref._id, kin.owner)  # refs of one owner share its pickle


def set_home(home: Adopts | None) -> None:
    """``home`` is this process's runtime from now on."""
    global _home
    _home = home


def _rebuild_ref(object_id: bytes, owner: Address) -> ObjectRef:
    if context.rebuild is not None:
        return context.rebuild(object_id, owner)
    if _home is None:
        raise RuntimeError(
            "An ObjectRef can only be unpickled where nbray is initialized: call nbray.init()."
        )
    return _home.adopted_ref(object_id, owner)


def _ref_at(number: int) -> ObjectRef:
    """The ref that stands there in the value that is unpickled; see `_Pickler`."""
    return context.refs[number]


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


class _Pickler(cloudpickle.Pickler):
    """Pickles a value: of a ref that stands in it, its number among those that do.

    What the value's own code pickles meanwhile has whole refs (`reduce_ref`), since it may be
    unpickled by itself; they are counted among the others.
    """

    def __init__(
        self, stream: io.BytesIO, buffers: list[memoryview], contained: list[ObjectRef]
    ) -> None:
        # PickleBuffer.raw() refuses strided memory, which then stays in the stream.
        super().__init__(stream, protocol=5, buffer_callback=lambda b: _out_of_band(b, buffers))
        self._contained = contained

    def reducer_override(self, value: Any) -> Any:
        """How a ref, a class or a function is pickled."""
        if type(value) is ObjectRef:
            if value._kin.core.reactor.stopped:
                value._check()
            contained = self._contained
            contained.append(value)
            return _ref_at, (len(contained) - 1,)
        if not issubclass(type(value), cloudpickle.BY_VALUE):
            return NotImplemented
        return super().reducer_override(value)


def serialize(value: Any) -> Serialized:
    """Pickle ``value``.

    Raises:
        TypeError, pickle.PicklingError: it cannot be pickled.
    """
    if type(value) in SIMPLE:
        return Serialized(value, pickle.dumps(value, 5), (), ())
    buffers: list[memoryview] = []
    contained: list[ObjectRef] = []
    outer, context.contained = context.contained, contained
    try:
        stream = io.BytesIO()
        _Pickler(stream, buffers, contained).dump(value)
    finally:
        context.contained = outer
    return Serialized(value, stream.getvalue(), buffers, _by_owner(contained) if contained else ())


def _by_owner(refs: list[ObjectRef]) -> tuple[ContainedRefs, ...]:
    return tuple(
        ContainedRefs(owner, tuple(map(_id_of, some))) for owner, some in groupby(refs, _owner_of)
    )


def _out_of_band(buffer: pickle.PickleBuffer, buffers: list[memoryview]) -> bool:
    try:
        raw = buffer.raw()
    except BufferError:
        return True
    buffers.append(raw)
    return False


class _WithRefs(pickle.Unpickler):
    """Finds this value's refs by their numbers, without a call of Python for each."""

    def __init__(
        self, stream: memoryview, refs: Sequence[ObjectRef], buffers: Sequence[memoryview] = ()
    ) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._refs = refs

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle names."""
        if name == _ref_at.__name__ and module == __name__:
            return self._refs.__getitem__
        return super().find_class(module, name)


def deserialize(
    data: bytes | memoryview, rebuild: Rebuild | None, refs: Sequence[ObjectRef] = ()
) -> Any:
    """The value of a flat form; arrays refer to ``data`` without a copy, and cannot be written to.

    Those of a small value, which is ``bytes``, are the reader's own and can.

    Args:
        data: the flat form.
        rebuild: makes the ObjectRefs of what the value's own code has pickled.
        refs: those that stand in the value, as `Serialized.contained` has them.
    """
    outer = context.rebuild
    plain = outer is None and rebuild is None and not refs
    if plain and type(data) is bytes:
        if data[:4] == _NO_BUFFERS:
            return pickle.loads(data[4:] if len(data) <= _SMALL else memoryview(data)[4:])
        if data[:4] == _ONE_BUFFER and len(data) <= _SMALL:  # an array
            stream_length, length = _OF_ONE.unpack_from(data)
            end = _OF_ONE.size + stream_length
            begins = _aligned(end)
            buffer = memoryview(bytearray(data[begins : begins + length]))
            return pickle.loads(data[_OF_ONE.size : end], buffers=(buffer,))
    outer_refs = context.refs
    context.rebuild, context.refs = rebuild, refs
    try:
        view = memoryview(data)
        (count,) = _PLAIN.unpack_from(view)
        if not count:
            stream = view[4:]
            if refs and len(stream) <= _COPIED:
                return _WithRefs(stream, refs).load()
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
        if refs and len(stream) <= _COPIED:
            return _WithRefs(stream, refs, buffers).load()
        return pickle.loads(stream, buffers=buffers)
    finally:
        context.rebuild, context.refs = outer, outer_refs
