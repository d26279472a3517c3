"""What a notebook and a keeper say to each other, by way of the door."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
        id: how its output and results are found.
        tied: the job of the notebook with which it ends, until it is let loose; "" for none.
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
    id: str = field(default_factory=lambda: os.urandom(8).hex())
    tied: str = ""


@dataclass(frozen=True)
class TakeBack:
    """Whoever handed that cell over wants it no more: stop it if it runs, and forget it."""

    id: str


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


@dataclass(frozen=True)
class Wait:
    """Tell me when a cell has ended. Answered by the refs of all that it returned."""

    name: str


@dataclass(frozen=True)
class Loose:
    """A cell that is tied to its notebook is detached from now on, under another name."""

    name: str
    new_name: str


Order = HandOver | TakeBack | Stop | Drop | Values | Wait | Loose


def refs_of(order: HandOver) -> list[ObjectRef]:
    """All refs of the notebook that a cell needs, in the order in which copies replace them."""
    refs = [*order.arguments, *order.cell.parcel.refs]
    for setup in order.setups:
        refs += [*setup.arguments, *setup.cell.parcel.refs]
    return refs if order.elements is None else [*refs, order.elements[0]]


def own_setup(setup: SetupCell, copies: Iterator[ObjectRef]) -> SetupCell:
    """A set-up cell with copies of what it needs."""
    arguments = tuple(next(copies) for _ in setup.arguments)
    parcel = replace(setup.cell.parcel, refs=[next(copies) for _ in setup.cell.parcel.refs])
    return SetupCell(setup.key, replace(setup.cell, parcel=parcel), arguments)
