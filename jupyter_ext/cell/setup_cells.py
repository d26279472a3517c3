"""Set-up cells (``%%remote --every``): run on every worker before its next cell.

The driver keeps them in order and names them with each cell; a worker runs those that it has
not run, also when it is started later. A cell with the name of an earlier one takes its place.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nbray.notebook import ObjectRef, engine

from ..messages import SetupCell
from .run import first_line
from .sending import ReadyCell, Wanted
from .target import Order, Submitted
from .task import InTask


@dataclass(frozen=True)
class _Kept:
    name: str
    label: str
    first_line: str
    cell: SetupCell
    content: str
    ref: ObjectRef


class SetupCells:
    """Those of this notebook."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._numbers = itertools.count(1)

    def make(self, name: str, ready: ReadyCell) -> None:
        """Keep a cell; one of that name before it goes."""
        key = f"{ready.label} {next(self._numbers)}"
        cell = SetupCell(key, ready.cell, tuple(ready.arguments))
        line = first_line(ready.text.source)
        ref = engine().api.put(cell)
        self._kept[name] = _Kept(name, ready.label, line, cell, _content(ready), ref)

    def drop(self, name: str) -> bool:
        """Forget one; False when there is none of that name."""
        return self._kept.pop(name, None) is not None

    def clear(self) -> None:
        """The cluster has gone."""
        self._kept.clear()

    def names(self) -> list[str]:
        """Of all."""
        return list(self._kept)

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, cell and first line of each."""
        return [(kept.name, kept.label, kept.first_line) for kept in self._kept.values()]

    def contents(self) -> list[tuple[str, str]]:
        """Name of each, and a digest of what it does and reads."""
        return [(kept.name, kept.content) for kept in self._kept.values()]

    def payload(self) -> tuple[tuple[str, ObjectRef], ...]:
        """What is told to workers with each cell."""
        return tuple((kept.cell.key, kept.ref) for kept in self._kept.values())

    def cells(self) -> list[SetupCell]:
        """Themselves."""
        return [kept.cell for kept in self._kept.values()]


def _content(ready: ReadyCell) -> str:
    digest = hashlib.sha256(ready.cell.code.encode("utf-8", "surrogatepass"))
    digest.update(ready.cell.parcel.stream)
    for part in (*ready.cell.parcel.buffers, *ready.arguments):
        digest.update(part if isinstance(part, bytes) else str(part).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class AsSetUp:
    """In every worker before its next cell, and now in one of them, where it is seen to work.

    Attributes:
        kept: the set-up cells of the notebook.
        empty: makes a cell that does nothing but have them run.
    """

    kept: SetupCells
    empty: Callable[[], ReadyCell]
    wanted: Wanted = field(default_factory=Wanted)

    def submit(self, order: Order) -> Submitted:
        """See `Target`."""
        name = order.options.get("name") or first_line(order.ready.text.source)
        self.kept.make(name, order.ready)
        check = self.empty()
        sent = InTask(self.wanted).submit(replace(order, ready=check, setups=self.kept.payload()))
        note = f"Every worker runs this before its next remote cell (set-up cell {name!r})."
        return replace(sent, take_back=lambda: self.kept.drop(name), note=note)
