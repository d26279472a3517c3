"""What travels with a remote cell: one small pickle, and large parts that are stored once.

All values of a cell are pickled together, so that what they share stays shared. Two things stay
outside of that pickle, as *parts* of their own in the object store: memory of arrays above
`LARGE_BYTES`, wherever it stands in a value, and *bulky* values whose own pickle is above it (a
long list). `Parcel` says how the parts go together again; `nbray.jupyter_ext.cell.values` decides
which of them are there already. `nbray.jupyter_ext.worker.home` says what becomes of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..messages import Buffer, Parcel
from .home import Carried, Packer, open_stream

if TYPE_CHECKING:
    from nbray.notebook import ObjectRef


LARGE_BYTES = 100 * 1024
"""Larger memory becomes a part of its own."""


class KnowingPacker(Packer):
    """Puts names in the places of values that travel by other ways."""

    known: Mapping[int, tuple[str, str]]

    def persistent_id(self, value: Any) -> tuple[str, str] | None:
        """What stands for ``value`` in the pickle, None for itself."""
        return self.known.get(id(value))


def dump(
    value: Any,
    known: Mapping[int, tuple[str, str]],
    refs: list[ObjectRef],
    home: dict[str, Any],
    sent: Collection[str] = (),
) -> tuple[bytes, list[memoryview]]:
    """The pickle of ``value`` and the memory outside of it.

    Args:
        value: what to pickle.
        known: what stands for the values with these ids.
        refs: the ObjectRefs so far; those in ``value`` are appended.
        home: the notebook's namespace.
        sent: its names that are sent in any case.
    """
    if not known:  # to ask about each part of a value costs more than to pickle it
        packer = Packer(home, refs, sent)
    else:
        packer = KnowingPacker(home, refs, sent)
        packer.known = known
    return packer.pack(value), packer.buffers


def unpack(
    parcel: Parcel,
    parts: Sequence[Any],
    passed: Mapping[str, Any],
    home: dict[str, Any],
    writable: Callable[[Any], Any],
) -> tuple[dict[str, Any], Carried]:
    """The values that were packed by name, and what functions among them carried along.

    Args:
        parcel: the plan.
        parts: the memory of its parts, in order.
        passed: values that came in other ways, by name.
        home: the namespace that becomes that of the notebook's functions.
        writable: makes a part writable.
    """
    opened: dict[str, Any] = {}
    carried: Carried = {}

    def load(stream: Any, buffers: Sequence[Buffer]) -> Any:
        memory = [writable(parts[b]) if isinstance(b, int) else bytearray(b) for b in buffers]
        value, more = open_stream(stream, memory, parcel.refs, home, find)
        for name, what in more.items():
            carried.setdefault(name, what)
        return value

    def find(token: tuple[str, str]) -> Any:
        kind, name = token
        if kind == "passed":
            return passed[name]
        if name not in opened:
            bulky = parcel.bulky[name]
            opened[name] = load(parts[bulky.stream], bulky.buffers)
        return opened[name]

    values: dict[str, Any] = load(parcel.stream, parcel.buffers)
    for name in parcel.bulky:
        find(("bulky", name))
    return {**opened, **values}, carried
