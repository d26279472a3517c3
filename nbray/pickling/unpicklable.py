"""Which part of a value cannot be pickled, with the way to it: ``config['locks'][0]``."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

from nbray.pickling.closures import bound_cells, read_globals

_SECONDS = 2.0
"""The search ends after so long with the best answer so far."""


@dataclass(frozen=True)
class UnpicklablePart:
    """The smallest part that was found.

    Attributes:
        path: Python that leads to it from the name, as far as there is such Python.
        value: the part.
        reason: what pickling it said.
    """

    path: str
    value: Any
    reason: str


def find_unpicklable(
    name: str, value: Any, dump: Callable[[Any], object]
) -> UnpicklablePart | None:
    """The smallest part of ``value`` that ``dump`` refuses; None when it refuses none."""
    reason = refusal(value, dump)
    if reason is None:
        return None
    found = UnpicklablePart(name, value, reason)
    until = time.monotonic() + _SECONDS
    seen = {id(value)}
    while time.monotonic() < until:
        for path, part in parts(found.path, found.value):
            if id(part) in seen or time.monotonic() >= until:
                continue
            seen.add(id(part))
            reason = refusal(part, dump)
            if reason is not None:
                found = UnpicklablePart(path, part, reason)
                break
        else:
            return found
    return found


def refusal(value: Any, dump: Callable[[Any], object]) -> str | None:
    """What ``dump`` raises for ``value``; None when it takes it."""
    try:
        dump(value)
    except Exception as error:  # a pickle runs the user's own __reduce__ and __getstate__
        return str(error) or type(error).__name__
    return None


def parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What ``value`` consists of, as far as pickling goes into it."""
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"{path}[{key!r}]", item
            yield f"a key of {path}", key
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield f"an item of {path}", item
    elif isinstance(value, functools.partial):
        yield f"{path}.func", value.func
        yield from parts(f"{path}.args", value.args)
        yield from parts(f"{path}.keywords", value.keywords)
    elif isinstance(value, MethodType):
        yield f"{path}.__self__", value.__self__
    elif isinstance(value, FunctionType):
        yield from _of_function(path, value)
    elif not isinstance(value, ModuleType | type) and not _says_how(type(value)):
        for name, item in list(getattr(value, "__dict__", {}).items()):
            yield f"{path}.{name}", item
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    yield f"{path}.{name}", getattr(value, name)


def _says_how(kind: type) -> bool:
    """Whether a class pickles in its own way, so that what its instances hold says nothing."""
    return any(isinstance(getattr(kind, n), FunctionType) for n in ("__reduce__", "__reduce_ex__"))


def _of_function(path: str, function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, value in bound_cells(function):
        yield f"{name} (which {path} holds)", value
    for name, value in read_globals(function):
        yield f"{name} (which {path} reads)", value
    yield from parts(f"{path}.__defaults__", function.__defaults__ or ())
