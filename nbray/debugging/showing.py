"""A value in a few words, whatever its size, and whatever its class makes of ``repr``."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

_LONGEST = 2000
_BUILT_IN = (list, tuple, dict, set, frozenset, str, bytes, bytearray, int)


class _Short(reprlib.Repr):
    """Shows the beginning of what is long. A class that shows itself as its builtin base is that.

    So no ``repr`` runs over a million items, which nothing could interrupt.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 20
        self.maxdeque = self.maxarray = 20
        self.maxstring = self.maxother = longest
        self.maxlong = 200

    def repr1(self, x: Any, level: int) -> str:
        kind = type(x)
        for base in _BUILT_IN:
            if issubclass(kind, base):
                if kind.__repr__ is base.__repr__:
                    show: Callable[[Any, int], str] = getattr(self, f"repr_{base.__name__}")
                    return show(x, level)
                break
        if is_dataclass(kind) and kind.__dataclass_params__.repr:  # type: ignore[attr-defined]
            return self._dataclass(x, level)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._named(kind.__name__, zip(kind._fields, x, strict=False), level)
        return super().repr1(x, level)

    def repr_bytes(self, x: bytes, level: int) -> str:
        """As the string."""
        limit = self.maxstring
        return repr(x[:limit]) + ("..." if len(x) > limit else "")

    def repr_bytearray(self, x: bytearray, level: int) -> str:
        """As bytes."""
        return f"bytearray({self.repr_bytes(bytes(x[: self.maxstring + 1]), level)})"

    def repr_str(self, x: str, level: int) -> str:
        """The beginning of it."""
        limit = self.maxstring
        return repr(x[:limit]) + ("..." if len(x) > limit else "")

    def _dataclass(self, x: Any, level: int) -> str:
        pairs = [(one.name, getattr(x, one.name, "?")) for one in fields(x) if one.repr]
        return self._named(type(x).__qualname__, pairs, level)

    def _named(self, name: str, pairs: Any, level: int) -> str:
        if level <= 0:
            return f"{name}(...)"
        inside = ", ".join(f"{key}={self.repr1(value, level - 1)}" for key, value in pairs)
        return f"{name}({inside})"


def short(value: Any, longest: int = _LONGEST) -> str:
    """``repr(value)``, or as much of it as is bounded; an error of its class is told in it."""
    try:
        text = _Short(longest).repr(value)
    except Exception as problem:  # the code of the user's class
        kind = type(value)
        text = f"<{kind.__qualname__} at {id(value):#x}, whose repr raised {_words(problem)}>"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= longest else text[:longest] + "..."


def _words(problem: Exception) -> str:
    try:
        return f"{type(problem).__name__}: {str(problem)[:200]}"
    except Exception:  # of the exception's own class
        return type(problem).__name__
