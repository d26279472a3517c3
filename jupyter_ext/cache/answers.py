"""What a cell's answer is, as parts for a `store`: values, what it showed, and how it comes back.

Each value is a pickle of its own, with the memory of its arrays beside it. Functions travel as
they do between the notebook and its cells (`worker.home`); those and classes that the cell has only
read stand there by their names, since the notebook has them. What belongs to a cluster is not kept.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbray.notebook import engine

from ..messages import LAST, Summary
from ..output.recording import Shown
from ..worker.home import open_stream
from ..worker.parcel import KnowingPacker


class NotKeptError(ValueError):
    """Something of an answer cannot be kept."""


@dataclass(frozen=True)
class Result:
    """What a cell made.

    Attributes:
        summary: what it displays, and says of its names.
        shown: what its tasks showed while they ran.
        values: of its names.
        together: of values that it changed, which may share their parts.
    """

    summary: Summary
    shown: Sequence[Shown]
    values: Mapping[str, Any]
    together: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stream:
    """One pickle: the names in it, the number of its part, and of those with its memory."""

    names: tuple[str, ...]
    stream: int
    buffers: tuple[int, ...]


class _Packer(KnowingPacker):
    """Refuses what belongs to a cluster."""

    name = ""

    def reducer_override(self, value: Any) -> Any:
        """How a value is kept; raises `NotKeptError`."""
        if isinstance(value, (*engine().handles, engine().placement_group)):
            handle = type(value).__name__
            if hasattr(value, "_function") or hasattr(value, "_cls"):
                return super().reducer_override(value)
            raise NotKeptError(f"{self.name} holds what ends with its cluster ({handle})")
        return super().reducer_override(value)


def as_parts(
    result: Result, home: dict[str, Any], known: Mapping[int, tuple[str, str]]
) -> list[Any]:
    """The parts of an answer.

    Args:
        result: what to keep.
        home: the notebook's namespace.
        known: what stands for values that the notebook has, by their ids.

    Raises:
        NotKeptError: a value cannot be kept.
    """
    parts: list[Any] = [b""]
    streams: list[_Stream] = []
    values: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        ((name,), {name: value}) for name, value in result.values.items()
    ]
    if result.together:
        values.append((tuple(result.together), dict(result.together)))
    for names, value in values:
        refs: list[Any] = []
        packer = _Packer(home, refs, home)
        packer.known = known
        packer.name = ", ".join("its value" if name == LAST else name for name in names)
        try:
            stream = packer.pack(value)
        except NotKeptError:
            raise
        except Exception as error:  # a value's own code
            cause = error.__cause__ or error
            raise NotKeptError(f"{packer.name} cannot be pickled ({cause})") from None
        if refs:
            raise NotKeptError(f"{packer.name} holds what ends with its cluster (ObjectRef)")
        first = len(parts)
        parts += [stream, *packer.buffers]
        streams.append(_Stream(names, first, tuple(range(first + 1, len(parts)))))
    parts[0] = pickle.dumps((result.summary, list(result.shown), streams), protocol=5)
    return parts


def from_parts(parts: Sequence[memoryview], home: dict[str, Any]) -> Result:
    """What `as_parts` has kept, signed by this user.

    Raises:
        Exception: a value cannot be made any more.
    """
    summary, shown, streams = pickle.loads(parts[0])
    values: dict[str, Any] = {}

    def find(token: tuple[str, str]) -> Any:
        return home[token[1]]

    for entry in streams:
        buffers = [parts[number] for number in entry.buffers]
        found, carried = open_stream(parts[entry.stream], buffers, [], home, find)
        for name, what in carried.items():
            home.setdefault(name, what)
        values.update(found)
    return Result(summary, shown, values)
