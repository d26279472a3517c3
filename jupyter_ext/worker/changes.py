"""Which of the notebook's values a remote cell has changed.

Not all changes can be seen in a cell's text: ``rows.append(1)``, ``df.drop(..., inplace=True)``,
what a function does. So each value that was sent has a fingerprint before the cell runs and
another one after it: a CRC of its pickle, which is not kept, and of the memory outside of it.
Memory that was read in place is not read for that: the kernel knows which of its pages were
written (`nbray.notebook.Memory`). A list of a million numbers costs 20 ms each time, 400 MB
in arrays 8 ms.

Functions of the notebook count with their closures and attributes, classes of it with their own
values, other code and modules only by what they are.
"""

from __future__ import annotations

import pickle
import zlib
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from nbray import cloudpickle
from nbray.notebook import Memory, engine
from nbray.pickling.closures import bound_cells

Fingerprint = tuple[object, ...]

_ATOMS = (int, float, complex, str, bytes, bool, type(None))


def _handles() -> tuple[type, ...]:
    """What is not looked into: it is the same as long as it is the same object."""
    return (ModuleType, *engine().handles)


_MOST_FAST = 1 << 30
_MADE_BY_PYTHON = frozenset({"__abstractmethods__", "__slotnames__", "_abc_impl"})


class Watch:
    """The values of some names, as they are now."""

    def __init__(self, names: dict[str, Any], memory: Memory) -> None:
        self._memory = memory
        self._values = dict(names)
        self._before = {name: _fingerprint(value, memory) for name, value in names.items()}

    def changed(self, names: dict[str, Any]) -> list[str]:
        """The names whose values are other ones, or have changed in place; deleted ones not."""
        return [
            name
            for name, value in self._values.items()
            if name in names and self._is_changed(name, value, names[name])
        ]

    def _is_changed(self, name: str, before: Any, now: Any) -> bool:
        if isinstance(now, _handles()):
            return now is not before and not isinstance(now, ModuleType)
        if isinstance(now, _ATOMS) and now is before:
            return False
        return _fingerprint(now, self._memory) != self._before[name]


def _fingerprint(value: Any, memory: Memory) -> Fingerprint:
    if isinstance(value, _ATOMS):
        return type(value), value if value == value else repr(value)
    if isinstance(value, _handles()):
        return type(value), id(value)
    if isinstance(value, type):
        if value.__module__ != "__main__":
            return ("class", id(value))
        value = {
            name: member
            for name, member in vars(value).items()
            if name not in _MADE_BY_PYTHON
            and not isinstance(member, MemberDescriptorType | GetSetDescriptorType)
        }
    try:
        return type(value), *_trace(value, memory, fast=True)
    except (ValueError, _TooMuchError):  # it holds itself, or the same part very often
        pass
    except Exception as error:  # a value's own code, or something that cannot be pickled
        return "not pickled", type(error), id(value)
    try:
        return type(value), *_trace(value, memory, fast=False)
    except Exception as error:
        return "not pickled", type(error), id(value)


def _trace(value: Any, memory: Memory, fast: bool) -> Fingerprint:
    """What a pickle of ``value`` is like.

    Args:
        value: what is pickled.
        memory: knows what was written of the memory outside of the pickle.
        fast: remember no parts: a tenth of the time, but a part that is there twice is pickled
            twice, and one that holds itself is refused.
    """
    sink = _Sink(_MOST_FAST if fast else None)
    marks: list[object] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            marks.append(memory.mark(buffer.raw()))
        except BufferError:  # strided memory
            return True
        return False

    tracer = _Tracer(sink, protocol=5, buffer_callback=out_of_band)
    tracer.fast = fast
    tracer.dump(value)
    return fast, sink.size, sink.crc, *marks


class _TooMuchError(Exception):
    """A pickle is longer than it may be."""


class _Sink:
    """A file that only counts."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self.size = self.crc = 0

    def write(self, data: Any) -> int:
        self.size += len(data)
        if self._most is not None and self.size > self._most:
            raise _TooMuchError
        self.crc = zlib.crc32(data, self.crc)
        return len(data)


class _Tracer(cloudpickle.Pickler):
    """Pickles values to be compared, never to be opened: code is named by where it is."""

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, **options)
        self._handles = _handles()

    def reducer_override(self, value: Any) -> Any:
        if value is _named:
            return NotImplemented
        if isinstance(value, type):
            return _named, (id(value),)
        if type(value) is FunctionType:
            if value.__module__ != "__main__":
                return _named, (id(value),)
            inner = [*bound_cells(value)], vars(value), value.__defaults__
            return _named, (id(value.__code__),), inner
        if isinstance(value, self._handles):
            return _named, (id(value),)
        return NotImplemented


def _named(what: object) -> object:
    return what
