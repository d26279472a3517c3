"""Why a value cannot be sent to another process."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import cloudpickle

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
    """
    name = name or getattr(base_obj, "__name__", None) or repr(base_obj)[:60]
    failures = list(_failures(base_obj, name, None, depth, set()))
    out = print_file or sys.stdout
    for failure in failures:
        print(f"{failure.name} cannot be pickled: {_why(failure.obj)}", file=out)
    if not failures:
        print(f"{name} can be pickled.", file=out)
    return not failures, set(failures)


def unpicklable(value: Any, what: str, name: str, error: BaseException) -> TypeError:
    """The error for a value that could not be pickled, with the paths of what cannot be.

    Args:
        what: what it is, as "the function" or "the arguments".
        name: what to call it, which begins the paths.
        error: what pickling raised.
    """
    failures = [f for f in _failures(value, name, None, _DEPTH, set()) if f.name != name]
    paths = "; ".join(f"{failure.name} ({_why(failure.obj)})" for failure in failures)
    found = f" What cannot be sent: {paths}." if paths else ""
    return TypeError(f"Could not serialize {what} {name}: {error}.{found}")


def _why(value: Any) -> str:
    """What pickling it raises; empty when it can be pickled."""
    value = value.value if isinstance(value, _Hashable) else value
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # a value's own code may raise whatever it likes
        return str(error) or type(error).__name__
    return ""


def _failures(
    value: Any, name: str, parent: Any, depth: int, seen: set[int]
) -> Iterator[FailureTuple]:
    if id(value) in seen or not _why(value):
        return
    seen.add(id(value))
    inner: list[FailureTuple] = []
    if depth:
        for path, part in _parts(value):
            inner += _failures(part, f"{name}{path}", value, depth - 1, seen)
    if inner:
        yield from inner
    else:
        yield FailureTuple(_Hashable.of(value), name, _Hashable.of(parent))


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


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if inspect.isfunction(value):
        found = inspect.getclosurevars(value)
        yield from ((f".closure.{key}", part) for key, part in found.nonlocals.items())
        yield from ((f".globals.{key}", part) for key, part in found.globals.items())
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif inspect.isclass(value) or hasattr(value, "__dict__"):
        yield from ((f".{key}", part) for key, part in vars(value).items())
