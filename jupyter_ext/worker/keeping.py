"""What runs in workers for detached cells: values that change their owner, results as bytes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nbray.notebook import engine

from ..messages import Unpicklable
from .home import Packer


def same(value: Any) -> Any:
    """The value, in an object of whoever asks: it outlives the one that it came from."""
    return value


def one_by_one(values: Sequence[Any]) -> Any:
    """Each value in an object of its own."""
    return list(values) if len(values) != 1 else values[0]


def bring(door: Any, order: Any) -> Any:
    """What a cell returns that a keeper has, when it has ended; raises what the cell raised."""
    api = engine().api
    summary, *values = api.get(api.get(door.ask.remote(order)))
    summary = replace(summary, displays=[], changed=(), classes=())  # these are in its record
    return (summary, *values) if values else summary


class _HoldsRefsError(Exception):
    """A value holds what dies with its owner."""


class _Small(Packer):
    """Refuses values with refs or handles in them: as bytes they would not hold these."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, engine().api.ObjectRef | engine().api.ActorHandle):
            raise _HoldsRefsError
        return super().reducer_override(value)


def as_bytes(most: int, *values: Any) -> list[bytes | None]:
    """The pickles of values that are small, up to ``most`` bytes together; None for others."""
    found: list[bytes | None] = []
    for value in values:
        try:
            packer = _Small({}, [])
            data = pickle.dumps((packer.pack(value), [bytes(buffer) for buffer in packer.buffers]))
        except Exception:  # a value's own code may raise anything; it stays in the store
            found.append(None)
            continue
        most -= len(data)
        found.append(data if most >= 0 else None)
    return found


def from_bytes(data: bytes, home: dict[str, Any]) -> Any:
    """The value that `as_bytes` pickled.

    Raises:
        Exception: it cannot be opened here; a value's own code may raise anything.
    """
    from .home import Envelope, open_stream

    stream, buffers = pickle.loads(data)
    value, _ = open_stream(stream, map(bytearray, buffers), [], home)
    if isinstance(value, Unpicklable):
        raise value.error()
    return value.open(home) if isinstance(value, Envelope) else value
