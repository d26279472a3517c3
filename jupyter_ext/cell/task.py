"""A cell that runs once, in a worker: what ``%%remote`` does unless it says more."""

from __future__ import annotations

from dataclasses import dataclass

from nbray.notebook import RemoteFunction, engine

from ..worker.running import run_cell
from .run import RemoteRun
from .sending import Wanted
from .target import Order, Submitted


def cell_runner() -> RemoteFunction:
    """The remote function that runs a cell, on the engine of now."""
    return engine().api.remote(run_cell)


@dataclass(frozen=True)
class InTask:
    """One task. What it has changed of the notebook's values may come back, too."""

    wanted: Wanted

    def submit(self, order: Order) -> Submitted:
        """See `Target`."""
        refs = order.call(cell_runner(), order.options)
        run = order.run(RemoteRun, [refs])
        if order.ready.cell.brings_changes:
            return Submitted(order.ready, run, [refs[2:]], changes=refs[1])
        return Submitted(order.ready, run, [refs[1:]])
