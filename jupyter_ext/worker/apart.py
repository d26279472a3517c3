"""A cell in several workers at once: each waits until all are there, and so has one of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbray.notebook import engine

from ..messages import Cell
from .running import run_cell

if TYPE_CHECKING:
    from nbray.notebook import ActorHandle, ObjectRef


class Barrier:
    """Where so many tasks wait for each other: each of them has a worker of its own then."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._complete = asyncio.Event()

    async def join(self) -> None:
        """Return when all have come."""
        self._missing -= 1
        if not self._missing:
            self._complete.set()
        await self._complete.wait()


def run_apart(
    barrier: ActorHandle,
    cell: Cell,
    setups: Sequence[tuple[str, ObjectRef]],
    *arguments: Any,
) -> Any:
    """Run a cell, in another worker than each of the others that come to the barrier."""
    engine().api.get(barrier.join.remote())
    return run_cell(cell, setups, *arguments)
