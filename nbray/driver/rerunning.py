"""A task of this program that failed, kept so that it can be run again where the program is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from nbray.core_worker.current import joined_core
from nbray.core_worker.values.arguments import opened
from nbray.object_ref import ObjectRef
from nbray.wire.records import ContainedRefs, TaskSpec


@dataclass(frozen=True)
class KeptTask:
    """What it takes to run it.

    Attributes:
        name: of its function.
        of_actor: it is a call of an actor, whose state it needs.
        packed: its arguments, but for those that are refs.
        contained: the refs inside of them.
        refs: those, by number or name; holding them keeps their values.
    """

    name: str
    of_actor: bool
    packed: bytes
    contained: tuple[ContainedRefs, ...]
    refs: dict[int | str, ObjectRef]

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Its arguments; where a ref stands for its value, there is None."""
        adopt = joined_core().adopted_ref
        inside = [adopt(one, refs.owner) for refs in self.contained for one in refs.object_ids]
        return opened(self.packed, adopt, inside)


def keep_task(data: bytes) -> KeptTask:
    """A task as its worker has told of it; where it is read, its values are kept.

    Raises:
        msgspec.DecodeError: it is none.
    """
    spec = msgspec.msgpack.decode(data, type=TaskSpec)
    core = joined_core()
    refs = {
        dependency.place: core.adopted_ref(dependency.object_id, dependency.owner)
        for dependency in spec.dependencies
    }
    return KeptTask(spec.name, bool(spec.actor_id), spec.args, spec.contained, refs)
