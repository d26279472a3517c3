"""The arguments of a task: packed by its submitter, unpacked by the worker that runs it.

A ref that is an argument itself stands for its value: it becomes a `Dependency`, which knows its
place; there, the pickle has None. A ref inside an argument stays a ref.
Arguments that are nothing but numbers and texts are marshalled, which takes half of the time and of
the bytes; pickled ones have a zero in front.

What travels with the task is bounded here, where it is made: an argument whose pickle is large is
`put`, so are the largest ones while all together are too much, and of the values of refs only so
many come along (`Inlined`); the worker asks their owners for the others. The bounds are Ray's:
``max_direct_call_object_size`` and ``task_rpc_inlined_bytes_limit``.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from nbray.common.config import Config
from nbray.core_worker.values.ahead import Ahead, Takes
from nbray.core_worker.values.serializability import unpicklable
from nbray.core_worker.values.serialization import (
    SIMPLE,
    Rebuild,
    Serialized,
    deserialize,
    serialize,
)
from nbray.core_worker.values.stored import NoCopyFound
from nbray.object_ref import ObjectRef
from nbray.wire.records import (
    Address,
    ContainedRefs,
    Dependency,
    TaskSpec,
    Value,
    ids_in,
)

_PICKLED = b"\0"  # no marshalled tuple begins so

Packed = tuple[bytes, tuple[Dependency, ...], tuple[ContainedRefs, ...]]


class Puts(Protocol):
    """Whoever makes objects of values, and counts references."""

    config: Config

    def put(self, value: Any, packed: Serialized | None = None) -> ObjectRef:
        """Make an object of ``value``."""

    def note(self, object_ids: Iterable[bytes], change: int) -> None:
        """Count that many references more of each."""


class Opens(Protocol):
    """Whoever has, or asks for, the values of arguments (`values.reading.Values`)."""

    def borrowed_ref(self, object_id: bytes, owner: Address) -> ObjectRef:
        """A ref that came from elsewhere."""

    def borrowed_refs(self, contained: tuple[ContainedRefs, ...]) -> Sequence[ObjectRef]:
        """The refs that stand in something."""

    def arguments_ahead(self, dependencies: Sequence[Dependency]) -> Ahead | None:
        """For several arguments: asks for the large ones before they are opened."""

    def argument(
        self, object_id: bytes, owner: Address, sent: Value | None, may_wait: bool,
        ahead: Takes | None,
    ) -> Any:  # fmt: skip
        """The value of a ref argument; raises what it says."""


def pack(process: Puts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """Pickled arguments, ref arguments, and refs inside arguments; each ref counted once more.

    Raises:
        TypeError, pickle.PicklingError: an argument cannot be pickled.
    """
    if not args and not kwargs:
        return b"", (), ()
    if SIMPLE.issuperset(map(type, args)) and (
        not kwargs or SIMPLE.issuperset(map(type, kwargs.values()))
    ):
        try:
            data = marshal.dumps((args, kwargs))
        except ValueError:  # of two gigabytes, for example
            return _pack(process, args, kwargs)
        if len(data) <= process.config.max_inline_bytes:
            return data, (), ()
    return _pack(process, args, kwargs)


def _pack(process: Puts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """The same for arguments that may be refs, large, or of any class."""
    dependencies: list[Dependency] = []
    keep: list[ObjectRef] = []
    listed: list[Any] = list(args)
    named = dict(kwargs)

    def depend(place: Any, ref: ObjectRef) -> None:
        kin = ref._kin
        if kin.core.reactor.stopped:
            ref._check()
        dependencies.append(Dependency(ref._id, kin.owner, None, place))
        (listed if type(place) is int else named)[place] = None

    def put(place: int | str, value: Any, packed: Serialized | None = None) -> None:
        ref = process.put(value, packed)
        keep.append(ref)
        depend(place, ref)

    try:
        for place, value in _places(args, kwargs):
            if type(value) in SIMPLE:
                continue  # those whose pickle is large are found below
            if isinstance(value, ObjectRef):
                depend(place, value)
            elif _surely_large(value) > process.config.max_inline_bytes:
                put(place, value)
        packed = serialize((listed, named))
        if packed.size > process.config.max_inline_bytes:
            sized = [
                (place, value, serialize(value))
                for place, value in _places(listed, named)
                if value is not None
            ]
            sized.sort(key=lambda one: one[2].size, reverse=True)
            left = sum(one.size for _, _, one in sized)
            for place, value, one in sized:
                if (
                    one.size <= process.config.max_inline_bytes
                    and left <= process.config.max_inline_arguments_bytes
                ):
                    break
                left -= one.size
                put(place, value, one)
            packed = serialize((listed, named))
    except TypeError as error:
        given = {**{f"argument {i}": a for i, a in enumerate(args)}, **kwargs}
        raise unpicklable(given, "the arguments", "arguments", error) from error
    process.note([dependency.object_id for dependency in dependencies], 1)
    process.note(ids_in(packed.contained), 1)
    return _PICKLED + packed.to_bytes(), tuple(dependencies), packed.contained


def _places(args: Sequence[Any], kwargs: dict[str, Any]) -> list[tuple[int | str, Any]]:
    """Every argument with its number or its name."""
    return [*enumerate(args), *kwargs.items()]


def _surely_large(value: Any) -> int:
    """What can be known of a value's size in bytes without pickling it; 0 for nothing."""
    return len(value) if isinstance(value, bytes | bytearray) else _nbytes(value)


def _nbytes(value: Any) -> int:
    """What an array says of its size in bytes; 0 for what says nothing."""
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


class Inlined:
    """How many bytes of its refs' values one task may still take along."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def fill(self, dependency: Dependency, value: Value) -> None:
        """Send the value along, if there is room; else its owner is asked for it."""
        size = len(value.inline) if value.inline is not None else 0
        if size <= self._left:
            self._left -= size
            dependency.value = value


class ArgumentsLost(Exception):
    """Arguments of a task have no copy any more: the nodes that were tried, by object id."""

    def __init__(self, tried: dict[bytes, list[bytes]]) -> None:
        super().__init__(tried)
        self.tried = tried


def opened(
    packed: bytes, rebuild: Rebuild, refs: Sequence[ObjectRef]
) -> tuple[list[Any], dict[str, Any]]:
    """What `pack` has pickled; where a ref stands for its value, there is None.

    ``refs`` stand inside of arguments; see `deserialize`.
    """
    if not packed:
        return [], {}
    if packed[0]:
        args, kwargs = marshal.loads(packed)
        return list(args), kwargs
    args, kwargs = deserialize(packed[1:], rebuild, refs)
    return args, kwargs


def unpack(
    values: Opens, spec: TaskSpec, may_wait: bool = True, arrived: Takes | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a task that runs here; raises what an argument's task raised.

    ``arrived`` has large ones that were asked for before.

    Raises:
        ArgumentsLost: not ``may_wait``, and some have to be made again.
    """
    # The submitter holds arguments until the reply, which names those that are kept.
    refs = values.borrowed_refs(spec.contained) if spec.contained else ()
    args, kwargs = opened(spec.args, values.borrowed_ref, refs)
    dependencies = spec.dependencies
    if not dependencies:
        return args, kwargs
    lost: dict[bytes, list[bytes]] = {}
    ahead = arrived
    if ahead is None and len(dependencies) > 1:
        ahead = values.arguments_ahead(dependencies)
    for dependency in dependencies:
        object_id = dependency.object_id
        try:
            value = values.argument(object_id, dependency.owner, dependency.value, may_wait, ahead)
        except NoCopyFound as error:
            lost[object_id] = error.tried
            continue
        place: Any = dependency.place
        (args if isinstance(place, int) else kwargs)[place] = value
    if lost:
        raise ArgumentsLost(lost)
    return args, kwargs
