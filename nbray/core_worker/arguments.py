"""The arguments of a task: packed by its submitter, unpacked by the worker that runs it.

A ref that is an argument itself stands for its value: it becomes a `Dependency`, which knows its
place; there, the pickle has None. A ref inside an argument stays a ref. Large argument values are
`put` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbray.common.ids import handle_id
from nbray.core_worker.serialization import check_current, deserialize, serialize
from nbray.core_worker.stored_values import NoCopyFound
from nbray.object_ref import ObjectRef
from nbray.util.serializability import unpicklable
from nbray.wire.records import ContainedRef, Dependency, TaskSpec

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker


Packed = tuple[bytes, list[Dependency], list[ContainedRef]]


def pack(core: CoreWorker, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """Pickled arguments, ref arguments, and refs inside arguments; each ref counted once more.

    Raises:
        TypeError, pickle.PicklingError: an argument cannot be pickled.
    """
    if not args and not kwargs:
        return b"", [], []
    dependencies: list[Dependency] = []
    keep: list[ObjectRef] = []

    def inline(place: int | str, value: Any) -> Any:
        if isinstance(value, ObjectRef):
            check_current(value)
        else:
            large = len(value) if isinstance(value, bytes | bytearray) else _nbytes(value)
            if large <= core.config.max_inline_bytes:
                return value
            value = core.put(value)
            keep.append(value)
        dependencies.append(Dependency(value._id, value._owner, None, place))
        return None

    try:
        listed = [inline(i, value) for i, value in enumerate(args)]
        named = {name: inline(name, value) for name, value in kwargs.items()}
        packed = serialize((listed, named))
    except TypeError as error:
        given = {**{f"argument {i}": a for i, a in enumerate(args)}, **kwargs}
        raise unpicklable(given, "the arguments", "arguments", error) from error
    core.references.note((dependency.object_id for dependency in dependencies), 1)
    core.references.note((ref.object_id for ref in packed.contained), 1)
    return packed.to_bytes(), dependencies, packed.contained


def _nbytes(value: Any) -> int:
    """What an array says of its size in bytes; 0 for what says nothing."""
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


def counted(spec: TaskSpec) -> list[bytes]:
    """What a task holds while it runs, once for each time that it stands here."""
    object_ids = [dependency.object_id for dependency in spec.dependencies]
    object_ids += [ref.object_id for ref in spec.contained]
    if spec.actor_id:
        object_ids.append(handle_id(spec.actor_id))
    return object_ids


class ArgumentsLost(Exception):
    """Arguments of a task have no copy any more: the nodes that were tried, by object id."""

    def __init__(self, tried: dict[bytes, list[bytes]]) -> None:
        super().__init__(tried)
        self.tried = tried


def unpack(
    core: CoreWorker, spec: TaskSpec, may_wait: bool = True
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a task that runs here; raises what an argument's task raised.

    Raises:
        ArgumentsLost: not ``may_wait``, and some have to be made again.
    """
    if not spec.args:
        return [], {}
    lost: dict[bytes, list[bytes]] = {}

    # The submitter holds arguments until the reply, which names those that are kept.
    args, kwargs = deserialize(spec.args, core.borrowed_ref)
    for dependency in spec.dependencies:
        core.table.borrow(dependency.object_id, dependency.owner)
        assert dependency.value is not None
        try:
            value = core.values.open(
                dependency.object_id, dependency.owner, dependency.value, None, may_wait
            )
        except NoCopyFound as error:
            lost[dependency.object_id] = error.tried
            continue
        (args if isinstance(dependency.place, int) else kwargs)[dependency.place] = value
    if lost:
        raise ArgumentsLost(lost)
    return args, kwargs
