"""Why a value cannot be sent to another process."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TextIO

from nbray.core_worker.values.serialization import dump
from nbray.pickling.closures import bound_cells, read_globals
from nbray.pickling.unpicklable import parts, refusal

_DEPTH = 4


@dataclass(frozen=True)
class FailureTuple:
    """A part that cannot be pickled.

    Attributes:
        obj: the part.
        name: the path to it, as ``config['lock']`` or ``f.closure.handle``.
        parent: what it stands in.
    """

    obj: Any
    name: str
    parent: Any

    @property
    def path(self) -> tuple[str, ...]:
        """The steps of ``name``, as Ray has them."""
        return tuple(re.split(r"\.closure\.|\.globals\.|\.|(?=\[)", self.name))


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Find the parts of a value that cannot be pickled, and print their paths.

    Args:
        base_obj: the value.
        name: what to call it.
        depth: how deep to look.
        print_file: where to print; standard output by default.

    Returns:
        Whether it can be pickled, and the innermost parts that cannot.

    Examples:
        >>> import threading
        >>> from nbray.util import inspect_serializability
        >>> fits, failures = inspect_serializability({"lock": threading.Lock()}, name="config")
        config['lock'] cannot be pickled: ...
        >>> fits, [failure.name for failure in failures]
        (False, ["config['lock']"])
    """
    name = name or getattr(base_obj, "__name__", None) or repr(base_obj)[:60]
    failures = list(_failures(base_obj, name, None, depth, set()))
    out = print_file or sys.stdout
    for failure, reason in failures:
        print(f"{failure.name} cannot be pickled: {reason}", file=out)
    if not failures:
        print(f"{name} can be pickled.", file=out)
    return not failures, {failure for failure, _reason in failures}


def trial_pickle(value: Any, *, buffers: bool = True) -> bytes:
    """A pickle that is looked at and not kept: unlike others, it holds no object whose ref it has.

    Args:
        value: what is pickled.
        buffers: whether the memory of arrays is copied into it.

    Raises:
        Exception: it cannot be pickled; a value's own code may raise anything.
    """
    return dump(value, None if buffers else lambda _buffer: False)[0]


def unpicklable(value: Any, what: str, name: str, error: BaseException) -> TypeError:
    """The error for a value that could not be pickled, with the paths of what cannot be.

    Args:
        what: what it is, as "the function f" or "the arguments".
        name: what begins the paths.
        error: what pickling raised.
    """
    failures = _failures(value, name, None, _DEPTH, set())
    paths = "; ".join(f"{f.name} ({reason})" for f, reason in failures if f.name != name)
    found = f" What cannot be sent: {paths}." if paths else ""
    return TypeError(f"Could not serialize {what}: {str(error).rstrip('.')}.{found}")


def _failures(
    value: Any, name: str, parent: Any, depth: int, seen: set[int]
) -> Iterator[tuple[FailureTuple, str]]:
    """The innermost parts that cannot be pickled, each with what pickling it raised."""
    reason = None if id(value) in seen else refusal(value, trial_pickle)
    if reason is None:
        return
    seen.add(id(value))
    inner: list[tuple[FailureTuple, str]] = []
    if depth:
        for path, part in _parts(name, value):
            inner += _failures(part, path, value, depth - 1, seen)
    if inner:
        yield from inner
    else:
        yield FailureTuple(_Hashable.of(value), name, _Hashable.of(parent)), reason


class _Hashable:
    """Stands for a value that cannot be a member of a set."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @staticmethod
    def of(value: Any) -> Any:
        try:
            hash(value)
        except TypeError:
            return _Hashable(value)
        return value

    def __repr__(self) -> str:
        return repr(self.value)


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """As `unpicklable.parts`, but with one path through functions, and into classes too."""
    if isinstance(value, FunctionType):
        yield from ((f"{path}.closure.{name}", part) for name, part in bound_cells(value))
        yield from ((f"{path}.globals.{name}", part) for name, part in read_globals(value))
    elif isinstance(value, type):
        yield from ((f"{path}.{name}", part) for name, part in list(vars(value).items()))
    else:
        yield from parts(path, value)
