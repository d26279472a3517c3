"""Set-up cells (``%%remote --every``): run on every worker before its next cell.

The driver keeps them in order and names them with each cell; a worker runs those that it has
not run, also when it is started later. A cell with the name of an earlier one takes its place.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import nbray

from ..messages import SetupCell


@dataclass(frozen=True)
class _Kept:
    name: str
    label: str
    first_line: str
    key: str
    ref: nbray.ObjectRef


class SetupCells:
    """Those of this notebook."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._numbers = itertools.count(1)

    def make(
        self, name: str, label: str, first_line: str, cell: SetupCell
    ) -> tuple[str, nbray.ObjectRef]:
        """Keep a cell; returns its key and where workers find it."""
        key = f"{label} {next(self._numbers)}"
        cell = SetupCell(key, cell.cell, cell.arguments)
        kept = _Kept(name, label, first_line, key, nbray.put(cell))
        self._kept[name] = kept
        return key, kept.ref

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

    def payload(self) -> tuple[tuple[str, nbray.ObjectRef], ...]:
        """What is told to workers with each cell."""
        return tuple((kept.key, kept.ref) for kept in self._kept.values())
