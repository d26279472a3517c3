"""Pickles of functions and classes, kept as long as what they refer to stays the same.

A program's functions are pickled once. In a notebook, a helper or a global may be another one
in the next cell: the notebook begins a new epoch with each cell, and a function is pickled
again before its first use in it. The same bytes have the same hash, so an unchanged function
is not sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from nbray.core_worker.tasks import PickledFunction
from nbray.core_worker.values.serializability import unpicklable
from nbray.core_worker.values.serialization import dump
from nbray.pickling.unpicklable import refusal

SIZE_LIMIT = 95 << 20  # bytes, as Ray's

_epoch = 0
_wrap: Callable[[Any], Any] | None = None


def new_epoch() -> None:
    """Everything may have changed: pickle functions and classes again before their next use."""
    global _epoch
    _epoch += 1


def set_wrapper(wrap: Callable[[Any], Any] | None) -> None:
    """Pickle ``wrap(function)`` in place of each function; None ends that.

    What comes back must unpickle as the function.
    """
    global _wrap
    _wrap = wrap
    new_epoch()


class KeptPickle:
    """The pickle of one function or class."""

    __slots__ = ("_epoch", "_pickled", "_target")

    def __init__(self, target: Any) -> None:
        self._target = target
        self._epoch = -1
        self._pickled: PickledFunction

    def get(self) -> PickledFunction:
        """The pickle as it is now.

        Raises:
            TypeError: it cannot be pickled; the text names the variable that holds the cause.
            ValueError: it has more than `SIZE_LIMIT` bytes.
        """
        if self._epoch != _epoch:
            epoch = _epoch
            target = self._target
            try:
                data, captured = dump(target if _wrap is None else _wrap(target))
            except Exception as error:  # a value's own code may raise whatever it likes
                if refusal(target, dump) is None:
                    raise  # and so may a signal's handler that came in between
                kind = "the actor class" if isinstance(target, type) else "the function"
                name = getattr(target, "__name__", repr(target))
                raise unpicklable(target, f"{kind} {name}", name, error) from error
            if len(data) > SIZE_LIMIT:
                kind = "The actor" if isinstance(target, type) else "The remote function"
                raise ValueError(
                    f"{kind} {getattr(target, '__name__', target)} is too large "
                    f"({len(data) >> 20} MiB > FUNCTION_SIZE_ERROR_THRESHOLD="
                    f"{SIZE_LIMIT >> 20} MiB). It may refer to a large array or another object: "
                    "give that as an argument, by nbray.put() if it is used often."
                )
            function_id = hashlib.blake2b(data, digest_size=16).digest()
            self._pickled = PickledFunction(function_id, data, captured)
            self._epoch = epoch
        return self._pickled
