"""The digest of a value's content: the same in every process, and another one for other content.

What a cell sees of a value is what its pickle says, so a value counts as its ``__reduce_ex__``
says; looked into here are atoms, containers, memory, code (`code`) and tables (`tables`). What must
not count does not: where a value lies, the order of a set, whether equal strings are one object,
the lines on which a function stands. What a program can see does: the order of a dict, whether two
lists are one, the type (True, 1 and 1.0 differ), the sign of a zero.

Mutable values have a number by which they are named when they come again: so what is shared and
what holds itself has a digest, too. Elements of sets have no order, so nothing in them may be
shared with what stands outside. What cannot be told stably raises `UnhashableError`, with the way
to the part.
"""

from __future__ import annotations

import copyreg
import hashlib
import io
import pickle
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

from . import code, tables

_SINGLE = {None: b"N", Ellipsis: b"E", NotImplemented: b"n"}
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_PLAIN = frozenset({range, slice})
_OF_PLAIN = frozenset({"datetime", "decimal", "fractions", "pathlib", "uuid", "zoneinfo"})
"""Modules whose instances cannot change: whether two of them are one is not to be seen."""
_BY_NAME = (BuiltinFunctionType, *code.SLOTS)
Handle = Callable[[Any], tuple[str, Any] | None]
"""What stands for a handle of the cluster: a word and a value; None: it is none. ValueError, with
the reason: nothing does."""


class UnhashableError(TypeError):
    """A part of a value has no stable digest.

    Attributes:
        path: the way to it, as ``model.lock``.
        reason: why.
    """

    def __init__(self, path: str, value: object, reason: str) -> None:
        super().__init__(f"{path} is a {type(value).__name__}: {reason}")
        self.path = path
        self.reason = reason


class Hasher:
    """Digests of several values that may share their parts.

    Attributes:
        reads: globals of the home that functions among the values read.
        modules: names of modules that their code needs.
        steps: names by which their code may reach modules of packages.
        words: names that their code uses, for hints.
    """

    def __init__(self, home: Mapping[str, Any], handle: Handle = lambda _value: None) -> None:
        """``home`` is the namespace whose functions name their globals instead of having them."""
        self.home = home
        self.reads: set[str] = set()
        self.modules: set[str] = set()
        self.steps: set[str] = set()
        self.words: set[str] = set()
        self._handle = handle
        self._seen: dict[int, bytes] = {}
        self._alive: list[Any] = []
        self._around: list[dict[int, bytes]] = []
        self._inside: dict[int, bytes] = {}
        self._open: dict[int, int] = {}
        self._apart: dict[int, bytes] = {}
        self._name = ""
        self._number = 0
        self._sink = hashlib.sha256()

    def digest(self, name: str, value: Any) -> str:
        """The digest of ``value``, which is called ``name``.

        Raises:
            UnhashableError: it has none that is stable.
        """
        self._name, self._number = name, 0
        self._sink = hashlib.sha256()
        try:
            self.feed(value, name)
        except RecursionError:
            raise UnhashableError(name, value, "its parts are nested too deeply") from None
        return self._sink.hexdigest()

    # --- what `code` and `tables` use --------------------

    def mark(self, tag: str, *words: str | int) -> None:
        """Say what comes next."""
        self._put(b"#", "\0".join([tag, *map(str, words)]).encode("utf-8", "surrogatepass"))

    def memory(self, data: Any) -> None:
        """Bytes, as they are."""
        with memoryview(data) as view:
            self._sink.update(b"M%d:" % view.nbytes)
            self._sink.update(view if view.contiguous else view.tobytes())

    def each(self, path: str, parts: Iterable[tuple[str, Any]]) -> None:
        """Parts of the value at ``path``, each with what leads to it, in their order."""
        for step, part in parts:
            self.feed(part, path + step)

    def first(self, value: Any, path: str) -> bool:
        """Whether a mutable value is met for the first time; else it is named by its number."""
        known = self._seen.get(id(value))
        if known is not None:
            self._put(b"@", known)
            return False
        if id(value) in self._inside or any(id(value) in seen for seen in self._around):
            raise UnhashableError(
                path, value, "an element of a set, or a class, has it, too, and nothing says which"
            )
        self._number += 1
        self._seen[id(value)] = f"{self._name}\0{self._number}".encode("utf-8", "surrogatepass")
        self._alive.append(value)  # else another one may get its id
        return True

    def apart(self, value: Any, feed: Callable[[], None]) -> None:
        """Count in what does not belong to one place, as a class, by a digest of its own."""
        if (depth := self._open.get(id(value))) is not None:
            self.mark("above", len(self._open) - depth)
            return
        if id(value) not in self._apart:
            self._open[id(value)] = len(self._open)
            try:
                with self._alone():
                    feed()
                    digest = self._sink.digest()
            finally:
                del self._open[id(value)]
            self._apart[id(value)] = digest
            self._alive.append(value)
        self._put(b"k", self._apart[id(value)])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Numbers begin anew, and nothing is shared with what stands outside."""
        outer = self._sink, self._name, self._number, self._seen
        self._around.append(outer[3])
        self._sink, self._name, self._number, self._seen = hashlib.sha256(), "", 0, {}
        try:
            yield
            self._inside.update(self._seen)
        finally:
            self._around.pop()
            self._sink, self._name, self._number, self._seen = outer

    # --- values --------------------

    def feed(self, value: Any, path: str) -> None:
        """Count a value in."""
        kind = type(value)
        if kind in _ATOMS or value is Ellipsis or value is NotImplemented:
            self._atom(value)
        elif kind is tuple:
            self._sequence(value, "tuple", path)
        elif kind is list:
            if self.first(value, path):
                self._sequence(value, "list", path)
        elif kind is dict:
            if self.first(value, path):
                self._dict(value, path)
        elif kind is set or kind is frozenset:
            if kind is frozenset or self.first(value, path):
                self._set(value, kind.__name__, path)
        else:
            self._other(value, kind, path)

    def _put(self, tag: bytes, data: bytes) -> None:
        self._sink.update(tag + b"%d:" % len(data) + data)

    def _atom(self, value: Any) -> None:
        if value is True or value is False:
            self._sink.update(b"t" if value else b"f")
        elif type(value) is int:
            size = (value.bit_length() + 8) // 8
            self._put(b"i", value.to_bytes(size, "little", signed=True))
        elif type(value) is float:
            self._sink.update(b"d" + struct.pack("<d", value))
        elif type(value) is complex:
            self._sink.update(b"c" + struct.pack("<dd", value.real, value.imag))
        elif type(value) is str:
            self._put(b"s", value.encode("utf-8", "surrogatepass"))
        elif type(value) is bytes:
            self._put(b"b", value)
        else:
            self._sink.update(_SINGLE[value])

    def _sequence(self, value: list[Any] | tuple[Any, ...], tag: str, path: str) -> None:
        self.mark(tag, len(value))
        if len(value) > 8 and set(map(type, value)) <= _ATOMS:
            self._atoms(value)
            return
        for number, part in enumerate(list(value)):
            self.feed(part, f"{path}[{number}]")

    def _dict(self, value: dict[Any, Any], path: str) -> None:
        self.mark("dict", len(value))
        kinds = set(map(type, value)) | set(map(type, value.values()))
        if len(value) > 8 and kinds <= _ATOMS:
            self._atoms(value)
            return
        for key, part in list(value.items()):
            self.feed(key, f"a key of {path}")
            self.feed(part, f"{path}[{key!r:.40}]" if type(key) in _ATOMS else f"{path}[...]")

    def _atoms(self, value: Any) -> None:
        """Many atoms at once. Without a memo a pickle does not say which of them are one object."""
        pickler = pickle.Pickler(_Sink(self._sink.update), protocol=5)
        pickler.fast = True
        self._sink.update(b"P")
        pickler.dump(value)
        self._sink.update(b".")

    def _set(self, value: Iterable[Any], tag: str, path: str) -> None:
        """Elements by their digests, each as if it stood alone."""
        elements = list(value)
        self.mark(tag, len(elements))
        if set(map(type, elements)) <= _ATOMS:
            for data in sorted(pickle.dumps(element, 5) for element in elements):
                self._put(b"a", data)
            return
        digests = []
        for element in elements:
            with self._alone():
                self.feed(element, f"an element of {path}")
                digests.append(self._sink.digest())
        for digest in sorted(digests):
            self._put(b"e", digest)

    def _other(self, value: Any, kind: type, path: str) -> None:
        if (stands := self._stands_for(value, path)) is not None:
            self.mark("handle", stands[0])
            self.feed(stands[1], path)
        elif isinstance(value, type):
            code.feed_class(self, value, path)
        elif kind is FunctionType:
            code.feed_function(self, value, path)
        elif kind is CodeType:
            code.feed_code(self, value, path)
        elif kind is ModuleType or isinstance(value, ModuleType):
            self._module(value, path)
        elif kind in _BY_NAME:
            self._builtin(value, path)
        elif kind is MethodType:
            self.mark("method")
            self.each(path, ((".__func__", value.__func__), (".__self__", value.__self__)))
        elif kind in code.WRAPPERS:
            if self.first(value, path):
                self.mark("wrapper", kind.__name__)
                self.each(path, code.WRAPPERS[kind](value))
        elif kind is MappingProxyType:
            self.mark("proxy")
            self._dict(dict(value), path)
        elif kind is CellType:
            if self.first(value, path):
                self.mark("cell")
                self.each(path, code.of_cell(value))
        elif kind is memoryview or kind is pickle.PickleBuffer:
            self.mark("memory")
            self.memory(value.raw() if kind is pickle.PickleBuffer else value)
        elif kind is bytearray:
            if self.first(value, path):
                self.mark("bytearray")
                self.memory(value)
        elif isinstance(value, Enum):
            self.mark("member of", str(value.name))
            self.each(path, (("", kind), (".value", value.value)))
        else:
            self._object(value, kind, path)

    def _object(self, value: Any, kind: type, path: str) -> None:
        """An instance: by the content of a table, or as a pickle would have it."""
        if not self._is_plain(value, kind) and (
            not self.first(value, path) or tables.feed(self, value, path)
        ):
            return
        if isinstance(value, set | frozenset):  # whose pickle has them in any order
            self.feed(kind, path)
            self._set(value, "set of its own", path)
            self._dict_state(getattr(value, "__dict__", {}), path)
        else:
            self._reduced(value, kind, path)

    @staticmethod
    def _is_plain(value: Any, kind: type) -> bool:
        return kind in _PLAIN or kind.__module__ in _OF_PLAIN or tables.is_plain(value)

    def _stands_for(self, value: Any, path: str) -> tuple[str, Any] | None:
        try:
            return self._handle(value)
        except ValueError as error:
            raise UnhashableError(path, value, str(error)) from None

    def _module(self, value: ModuleType, path: str) -> None:
        if sys.modules.get(value.__name__) is not value:
            raise UnhashableError(path, value, "it was made while the notebook ran")
        self.modules.add(value.__name__)
        self.mark("module", value.__name__)

    def _builtin(self, value: Any, path: str) -> None:
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, ModuleType | type):
            self.mark("method of", value.__name__)
            self.feed(owner, f"{path}.__self__")
            return
        place = getattr(value, "__module__", None) or _home_of(owner)
        if (of := getattr(value, "__objclass__", None)) is not None:
            place = of.__module__
        self.by_name(place, value.__qualname__)

    def by_name(self, module: str, name: str) -> None:
        """Something of a module, whose source or version says what it is."""
        self.modules.add(module)
        self.mark("of", module, name)

    def _reduced(self, value: Any, kind: type, path: str) -> None:
        """As a pickle would have it."""
        try:
            reducer = copyreg.dispatch_table.get(kind)
            reduced = reducer(value) if reducer is not None else value.__reduce_ex__(5)
        except RecursionError:
            raise
        except Exception as error:  # a value's own code may raise anything
            raise UnhashableError(path, value, f"it cannot be pickled ({error})") from None
        self.mark("object")
        if isinstance(reduced, str):
            self.feed(kind, path)
            self.mark("global", str(getattr(value, "__module__", "")), reduced)
            return
        make, arguments, state, items, pairs, *setter = (*reduced, None, None, None, None)[:6]
        self._alive.append(reduced)
        self.feed(make, f"how {path} is made")
        self.feed(tuple(arguments), f"{path}.__reduce__()")
        if type(state) is dict:
            self.mark("state")
            self._dict_state(state, path)
        else:
            self.feed(state, f"{path}.__getstate__()")
        for tag, found in (("items", items), ("pairs", pairs)):
            self.mark(tag)
            if found is not None:
                for number, part in enumerate(found):
                    self._alive.append(part)
                    self.feed(part, f"{path}[{number}]")
        if setter and setter[0] is not None:
            self.feed(setter[0], f"how {path} is set")

    def _dict_state(self, state: Mapping[str, Any], path: str) -> None:
        self.mark("attributes", len(state))
        for name, part in list(state.items()):
            self.feed(name, path)
            self.feed(part, f"{path}.{name}")


class _Sink(io.RawIOBase):
    """A file whose content only counts."""

    def __init__(self, update: Callable[[Any], None]) -> None:
        self._update = update

    def write(self, data: Any) -> int:
        """See `io.RawIOBase.write`."""
        self._update(data)
        return len(data)


def _home_of(owner: Any) -> str:
    """The module of a builtin's owner: a module, a class, or nothing."""
    if isinstance(owner, ModuleType):
        return owner.__name__
    return str(getattr(owner, "__module__", "builtins"))
