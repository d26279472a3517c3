"""Where a remote cell runs: a task, many, every node, actors, or every worker from now on.

They differ in what they ask of the cell before it is read, and in how they submit it. All else,
from the reading to what becomes of its names, is the same for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from nbray.notebook import ObjectRef, engine

from .run import Patience, RemoteRun
from .sending import ReadyCell, Wanted

Refs = list[ObjectRef]
_Run = TypeVar("_Run", bound=RemoteRun)


@dataclass(frozen=True)
class Order:
    """What a target is given.

    Attributes:
        ready: the cell.
        options: of its tasks, as the line has them.
        patience: how long to wait, and what an interrupt does.
        setups: the set-up cells, which run before it in workers that are new to them.
    """

    ready: ReadyCell
    options: Mapping[str, Any]
    patience: Patience
    setups: tuple[tuple[str, ObjectRef], ...]

    def call(
        self,
        function: Any,
        options: Mapping[str, Any],
        first: Sequence[Any] = (),
        own: Sequence[Any] = (),
    ) -> Refs:
        """Have the cell run once; returns the refs of its summary and of what comes back.

        Args:
            function: a remote function, or the method of an actor.
            options: of this call.
            first: what it takes before the cell.
            own: the values of the variables that the target passes.
        """
        ready = self.ready
        named = {"name": f"cell {ready.label}", **options, "num_returns": ready.cell.returns}
        made = function.options(**named).remote(
            *first, ready.cell, self.setups, *own, *ready.arguments
        )
        engine().tasks.submitted(made, str(named["name"]))
        return made if isinstance(made, list) else [made]

    def run(self, kind: type[_Run], made: Sequence[Refs]) -> _Run:
        """The handle of these calls."""
        ready = self.ready
        return kind(
            ready.label, [refs[0] for refs in made], ready.inputs, source=ready.text.source,
            sent_bytes=ready.sent_bytes, patience=self.patience,
        )  # fmt: skip


@dataclass(frozen=True)
class Submitted:
    """What a target returns.

    Attributes:
        ready: the cell that runs.
        run: its handle; None when there was nothing to run it for.
        columns: for each place where it runs, the refs of what comes back.
        several: a name's value is a list, with one value for each place.
        titles: what the places are called where they display something; empty: nothing.
        changes: the values that it has changed, by name; None: they are only told.
        take_back: undoes what submitting it did here, when it fails.
        note: what a person is told when it has ended well.
    """

    ready: ReadyCell
    run: RemoteRun | None
    columns: Sequence[Refs]
    several: bool = False
    titles: Sequence[str] = ()
    changes: ObjectRef | None = None
    take_back: Callable[[], object] = lambda: None
    note: str = ""


class Target(Protocol):
    """One way to run a cell."""

    @property
    def wanted(self) -> Wanted:
        """What it asks of the cell: what comes back, and which names it passes itself."""

    def submit(self, order: Order) -> Submitted:
        """Have the cell run."""
