"""What a notebook's functions and classes take along to the workers.

A function that was written in a cell has no file: its lines travel with its pickle into the
worker's `linecache`, so that tracebacks, `inspect` and debuggers find them there. Its arrival also
prepares the worker for `display` (see `worker_display`).
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from nbray.pickling.closures import bound_cells

from ..worker.arriving import arrive

_MAX_SOURCE = 1 << 20


class Shipped:
    """Unpickles as ``target``; takes source lines along, by file name."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return arrive, (self._target, sources_of(self._target))


def sources_of(target: Any) -> dict[str, str]:
    """The text of each cell that ``target``, or a function or class that it uses, comes from."""
    found: dict[str, str] = {}
    size = 0
    for code in _codes(target):
        name = code.co_filename
        if name in found or os.path.exists(name):
            continue
        text = "".join(linecache.getlines(name))
        size += len(text)
        if text and size <= _MAX_SOURCE:
            found[name] = text
    return found


def _codes(target: Any) -> Iterator[CodeType]:
    waiting, seen = [target], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, FunctionType):
            if item.__module__ != "__main__":
                continue
            yield item.__code__
            waiting += [item.__globals__.get(name) for name in _names(item.__code__)]
            waiting += [value for _name, value in bound_cells(item)]
        elif isinstance(item, type) and item.__module__ == "__main__":
            waiting += [*vars(item).values(), *item.__bases__]
        elif isinstance(item, staticmethod | classmethod):
            waiting.append(item.__func__)
        elif isinstance(item, property):
            waiting += [item.fget, item.fset, item.fdel]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
