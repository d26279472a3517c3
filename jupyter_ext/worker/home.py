"""Functions travel between the notebook and its cells without their globals.

A function that was written in the notebook reads the notebook's names, wherever a cell runs it,
and one that a cell defines reads the notebook's when it has come back: as if the cell had run
there. So a function whose globals are the *home* of where it is pickled gets the home of where it
arrives. Others, as those that `dataclasses` or `contextlib` make, keep the globals that they
have.

What a function at home reads and is not sent by itself is *carried*: it is there for a name that
has no value where the function arrives.

A value that holds such functions comes out of a cell as an `Envelope`, which opens by itself in
the notebook, and in a worker as soon as the namespace is there.
"""

from __future__ import annotations

import gc
import io
import pickle
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from nbray import cloudpickle
from nbray.notebook import engine

from ..messages import Unpicklable

if TYPE_CHECKING:
    from nbray.notebook import ObjectRef


Carried = dict[str, Any]
"""What functions read further, by name."""


class _Opening(threading.local):
    """What this thread is opening."""

    home: dict[str, Any] | None = None
    refs: Sequence[ObjectRef] = ()


_opening = _Opening()
_notebook: dict[str, Any] | None = None


def set_notebook(namespace: dict[str, Any] | None) -> None:
    """This process is a notebook's kernel: its namespace is the home of all that arrives."""
    global _notebook
    _notebook = namespace


class Packer(cloudpickle.Pickler):
    """Pickles values without the globals of functions at home; refs become numbers.

    Attributes:
        buffers: memory that stands outside of the pickle.
        carried: what the functions read further, by name.
        met: whether there was a function at home.
    """

    def __init__(
        self, home: dict[str, Any], refs: list[ObjectRef], sent: Collection[str] = ()
    ) -> None:
        """``sent`` are names that need not be carried; see `parcel.dump`."""
        self._file = io.BytesIO()
        self.buffers: list[memoryview] = []
        super().__init__(self._file, protocol=5, buffer_callback=self._out_of_band)
        self._home = home
        self._refs = refs
        self._sent = sent
        self._ref_type = engine().api.ObjectRef
        self.carried: Carried = {}
        self.met = False

    def pack(self, value: Any) -> bytes:
        """The pickle of ``value``, and after it those of what is carried."""
        self.dump(value)
        done: set[str] = set()
        while missing := [name for name in self.carried if name not in done]:
            for name in missing:
                self.dump((name, self.carried[name]))
            done.update(missing)
        return self._file.getvalue()

    def reducer_override(self, value: Any) -> Any:
        """How functions at home, refs and classes are pickled."""
        if type(value) is FunctionType and value.__globals__ is self._home:
            self.met = True
            return self._at_home(value)
        if isinstance(value, self._ref_type):
            self._refs.append(value)
            return _ref_here, (len(self._refs) - 1,)
        return super().reducer_override(value)

    def _at_home(self, function: FunctionType) -> tuple[Any, ...]:
        _make, (code, _globals, *_), (attributes, slots), *_ = self._dynamic_function_reduce(
            function
        )
        for name, value in slots["__globals__"].items():
            if name not in self._sent:
                self.carried.setdefault(name, value)
        slots["__globals__"] = {}
        closed = function.__closure__ is not None
        return _function_here, (code, closed), (attributes, slots), None, None, _complete

    def _out_of_band(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            self.buffers.append(buffer.raw())
        except BufferError:  # strided memory
            return True
        return False


def _function_here(code: CodeType, closed: bool) -> FunctionType:
    from cloudpickle.cloudpickle import _make_empty_cell

    assert _opening.home is not None, "functions at home arrive in parcels and envelopes"
    cells = tuple(_make_empty_cell() for _ in code.co_freevars) if closed else None
    return FunctionType(code, _opening.home, None, None, cells)


def _complete(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    from cloudpickle.cloudpickle import _function_setstate

    home = function.__globals__
    builtins = home.get("__builtins__")
    _function_setstate(function, state)
    if builtins is not None:  # cloudpickle puts the dict in the module's place
        home["__builtins__"] = builtins


def _ref_here(number: int) -> ObjectRef:
    return _opening.refs[number]


class _Opener(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, buffers: Iterable[Any], find: Callable[[Any], Any]):
        super().__init__(file, buffers=buffers)
        self._find = find

    def persistent_load(self, token: Any) -> Any:
        """The value that a name stands for."""
        return self._find(token)


def open_stream(
    stream: Any,
    buffers: Iterable[Any],
    refs: Sequence[ObjectRef],
    home: dict[str, Any],
    find: Callable[[Any], Any] | None = None,
) -> tuple[Any, Carried]:
    """The value that a `Packer` pickled, and what its functions carried along.

    Args:
        stream: the pickle.
        buffers: the memory outside of it.
        refs: the refs that it numbers.
        home: the globals of functions at home.
        find: the values that names stand for.
    """
    outer = _opening.home, _opening.refs
    _opening.home, _opening.refs = home, refs
    collects = gc.isenabled()
    gc.disable()  # of a million new lists none is garbage: to look at them takes most of the time
    try:
        file = io.BytesIO(stream)
        size = len(file.getbuffer())
        opener = _Opener(file, buffers, find or _unknown)
        value = opener.load()
        carried: Carried = {}
        while file.tell() < size:
            name, what = opener.load()
            carried[name] = what
        return value, carried
    finally:
        _opening.home, _opening.refs = outer
        if collects:
            gc.enable()


class Envelope:
    """A value with functions of the cell, not opened yet."""

    def __init__(self, stream: Any, buffers: Sequence[Any], refs: Sequence[ObjectRef]) -> None:
        self._stream = stream
        self._buffers = buffers
        self._refs = refs

    def open(self, home: dict[str, Any], writable: Callable[[Any], Any] = memoryview) -> Any:
        """The value, with ``home`` as the globals of its functions.

        Names that the functions read and ``home`` has not get the values that were carried.
        """
        value, carried = open_stream(self._stream, map(writable, self._buffers), self._refs, home)
        for name, what in carried.items():
            home.setdefault(name, what)
        return value

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        memory = tuple(pickle.PickleBuffer(buffer) for buffer in self._buffers)
        return _arrive, (pickle.PickleBuffer(self._stream), memory, tuple(self._refs))


def _unknown(token: Any) -> Any:
    raise pickle.UnpicklingError(f"a value that was sent apart is missing: {token!r}")


def _arrive(stream: Any, buffers: Sequence[Any], refs: Sequence[ObjectRef]) -> Any:
    envelope = Envelope(stream, buffers, refs)
    return envelope if _notebook is None else envelope.open(_notebook, engine().memory().writable)


def enclosed(value: Any, home: dict[str, Any]) -> Any:
    """``value`` as it leaves a cell: in an `Envelope` if it holds functions of the cell.

    Raises:
        Exception: it cannot be pickled; a value's own code may raise anything.
    """
    refs: list[ObjectRef] = []
    packer = Packer(home, refs)
    stream = packer.pack(value)
    return Envelope(stream, packer.buffers, refs) if packer.met else value


def fetch(ref: ObjectRef, name: str | None = None) -> Any:
    """The value of a ref, or of one name in it, as it is in this process.

    Raises:
        TypeError: it could not leave its worker.
    """
    value = engine().api.get(ref)
    if name is not None:
        value = value[name]
    if isinstance(value, Envelope):  # this process is a worker
        return value.open({})
    if isinstance(value, Unpicklable):
        raise value.error()
    return value
