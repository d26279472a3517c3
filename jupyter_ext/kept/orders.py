"""What a notebook and a keeper say to each other, by way of the door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbray.notebook import ObjectRef

from ..cell.target import Target
from ..cell.text import CellText
from ..messages import Cell, DriverPlace, SetupCell
from .record import Limits


@dataclass(frozen=True)
class HandOver:
    """Run this cell. Answered by its id, when nothing of it hangs on the notebook any more.

    Attributes:
        name: what it is to be called.
        label: the cell that it was.
        by: whose notebook it is.
        text: its text, read.
        cell: what a worker is told.
        names: the names that come back.
        arguments: what follows the cell in `run_cell`.
        setups: the set-up cells, which run before it in workers that are new to them.
        options: of its tasks.
        target: where it runs.
        elements: the values of what it runs over, and how many these are.
        place: where the notebook stands, and its own modules.
        limits: what is kept of it.
    """

    name: str
    label: str
    by: str
    text: CellText
    cell: Cell
    names: tuple[str, ...]
    arguments: list[ObjectRef]
    setups: list[SetupCell]
    options: dict[str, Any]
    target: Target
    place: DriverPlace | None
    limits: Limits
    elements: tuple[ObjectRef, int] | None = None


@dataclass(frozen=True)
class Stop:
    """Have a cell stop, as an interrupt does; ``force`` kills its workers."""

    name: str
    force: bool


@dataclass(frozen=True)
class Drop:
    """Forget a cell that has ended, and its results."""

    name: str


@dataclass(frozen=True)
class Values:
    """Give me the refs of the results that lie in the store. Answered by a dict of lists."""

    name: str


Order = HandOver | Stop | Drop | Values
