"""Functions and classes as content: their bytecode, and what it reads.

What a module has under its name counts by the module. All else, as the notebook's own, counts by
what it is: not where it stands, what line it has or which process compiled it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from types import (
    CellType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
from typing import Any, Protocol

from nbray.pickling.closures import bound_cells

from ..cell.analysis import globals_of
from .imports import said_by_code

SLOTS = (
    WrapperDescriptorType, MethodDescriptorType, ClassMethodDescriptorType, GetSetDescriptorType,
    MemberDescriptorType,
)  # fmt: skip
"""Parts of classes that Python makes, known by their names."""
_MADE_BY_PYTHON = frozenset(
    {
        "__abstractmethods__", "__annotations_cache__", "__dict__", "__firstlineno__",
        "__slotnames__", "__static_attributes__", "__weakref__", "_abc_impl",
    }
)  # fmt: skip
_Parts = Iterable[tuple[str, Any]]

WRAPPERS: dict[type, Callable[[Any], _Parts]] = {
    staticmethod: lambda value: (("", value.__func__), ("", vars(value))),
    classmethod: lambda value: (("", value.__func__), ("", vars(value))),
    property: lambda value: (
        (".fget", value.fget), (".fset", value.fset), (".fdel", value.fdel),
        (".__doc__", value.__doc__),
    ),
    type(functools.lru_cache(lambda: None)): lambda value: (
        ("", value.__wrapped__), ("", value.cache_parameters()),
    ),
}  # fmt: skip
"""What holds functions and is not pickled by value, with its parts."""


class Hasher(Protocol):
    """What counts in (`hashing.Hasher`)."""

    home: Any
    reads: set[str]
    modules: set[str]
    steps: set[str]
    words: set[str]

    def mark(self, tag: str, *words: str | int) -> None: ...
    def memory(self, data: Any) -> None: ...
    def each(self, path: str, parts: Iterable[tuple[str, Any]]) -> None: ...
    def first(self, value: Any, path: str) -> bool: ...
    def apart(self, value: Any, feed: Callable[[], None]) -> None: ...
    def feed(self, value: Any, path: str) -> None: ...
    def by_name(self, module: str, name: str) -> None: ...


def of_cell(cell: CellType) -> _Parts:
    """What a variable of a closure holds."""
    try:
        return (("", cell.cell_contents),)
    except ValueError:  # it is not bound yet
        return ()


def feed_function(hasher: Hasher, function: FunctionType, path: str) -> None:
    """A function: by its module, or by its code, defaults, closure and what globals it reads."""
    if _of_a_module(hasher, function) or not hasher.first(function, path):
        return
    _is_named(hasher, function)
    hasher.mark("function", function.__name__, function.__qualname__)
    hasher.feed(function.__code__, path)
    hasher.each(
        path,
        (
            (" (a default)", function.__defaults__),
            (" (a default)", function.__kwdefaults__),
            (" (its attributes)", vars(function)),
            (" (its annotations)", _annotations(function)),
        ),
    )
    for name, value in bound_cells(function):
        hasher.mark("closes over", name)
        hasher.feed(value, f"{name}, over which {path} closes,")
    names = sorted(globals_of(function.__code__))
    if function.__globals__ is hasher.home:
        hasher.reads.update(names)
        return
    for name in names:
        if name in function.__globals__:
            hasher.mark("reads", name)
            hasher.feed(function.__globals__[name], f"{name}, which {path} reads,")


def _annotations(function: FunctionType) -> Any:
    try:
        return function.__annotations__
    except Exception:  # from Python 3.14 on they are evaluated when they are asked for
        return None


def feed_class(hasher: Hasher, cls: type, path: str) -> None:
    """A class: by its module, or by its bases and all that it defines."""
    if not _of_a_module(hasher, cls):
        _is_named(hasher, cls)
        hasher.apart(cls, lambda: _feed_members(hasher, cls, path))


def _feed_members(hasher: Hasher, cls: type, path: str) -> None:
    hasher.mark("class", cls.__name__, cls.__qualname__)
    hasher.each(path, (("'s metaclass", type(cls)), ("'s bases", cls.__bases__)))
    for name, value in sorted(vars(cls).items()):
        if name not in _MADE_BY_PYTHON and not isinstance(
            value, MemberDescriptorType | GetSetDescriptorType
        ):
            hasher.mark("member", name)
            hasher.feed(value, f"{path}.{name}")


def _is_named(hasher: Hasher, value: Any) -> None:
    """What the home has by its own name counts by that, too: answers find it there."""
    if hasher.home.get(value.__name__) is value:
        hasher.reads.add(value.__name__)


def _of_a_module(hasher: Hasher, value: Any) -> bool:
    place = importable(value)
    if place is not None:
        hasher.by_name(*place)
    return place is not None


def feed_code(hasher: Hasher, code: CodeType, path: str) -> None:
    """Bytecode, without the lines on which it stands."""
    hasher.mark(
        "code", code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount,
        code.co_flags, *code.co_names, "|", *code.co_varnames, "|", *code.co_freevars, "|",
        *code.co_cellvars,
    )  # fmt: skip
    hasher.memory(code.co_code)
    hasher.memory(getattr(code, "co_exceptiontable", b""))
    hasher.each(path, (("", constant) for constant in code.co_consts))
    said = said_by_code(code)
    hasher.modules.update(said.modules)
    hasher.steps.update(said.steps)
    hasher.words.update(code.co_names)


def importable(value: Any) -> tuple[str, str] | None:
    """Module and name under which ``value`` is found wherever its module is; None: it is not."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or module not in sys.modules:
        return None
    found: Any = sys.modules[module]
    for step in name.split("."):
        found = getattr(found, step, None)
    return (module, name) if found is value else None
