"""What becomes of the notebook's names when a remote cell ends.

Nothing in the notebook changes before the cell has ended well. Then the names that it has bound,
and those whose values it has changed, get their new values; one that it has not bound keeps what
it had. After a failure or an interrupt each name has the value that it had; only names without
one say what happened when they are read.

A cell that runs in the background (``--noblock``) has its names at once, since later cells may wait
for them. The first that reads one of a cell that failed is told so; then the name has its value
of before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING, Any

from nbray.notebook import ObjectRef, engine

from ..messages import Summary
from ..worker.own_values import make_own
from .remote_value import MISSING, RemoteValue

if TYPE_CHECKING:
    from .run import RemoteRun


class Arriving:
    """The names of one remote cell."""

    def __init__(
        self,
        namespace: dict[str, Any],
        names: Sequence[str],
        certain: Set[str],
        run: RemoteRun,
        refs: Sequence[ObjectRef],
        changes: ObjectRef | None = None,
    ) -> None:
        """Take what stands for the values that come back.

        Args:
            namespace: the notebook's.
            names: those that come back.
            certain: those of them that the cell binds whichever way it goes.
            run: the cell.
            refs: of the names' values, in order.
            changes: of other values that it has changed, by name.
        """
        self._namespace = namespace
        self._run = run
        self._changes = changes
        self._values = {
            name: RemoteValue(
                name, ref, run, name in certain, previous=namespace.get(name, MISSING)
            )
            for name, ref in zip(names, refs, strict=False)
        }
        run.names = {value.ref.hex(): name for name, value in self._values.items()}

    def promise(self) -> None:
        """The cell goes on in the background."""
        self._namespace.update(self._values)

    def fail(self) -> None:
        """The cell has failed, or was interrupted."""
        self._run.unchanged = tuple(name for name in self._values if name in self._namespace)
        for name, value in self._values.items():
            self._namespace.setdefault(name, value)

    def succeed(self, summary: Summary) -> None:
        """The cell has ended well."""
        namespace = self._namespace
        for name, value in self._values.items():
            if name in summary.types:
                value.settle()
                namespace[name] = value
            else:
                namespace.setdefault(name, value)
        if self._changes is not None and summary.brought:
            self._bring(summary.brought, self._changes)
        for name in summary.code:
            # Others look for functions and classes by name: pickle, inspect, annotations.
            if name in self._values and engine().tasks.describe(self._values[name].ref).inline:
                value = namespace[name].get()
                namespace[name] = value

    def _bring(self, names: Iterable[str], changes: ObjectRef) -> None:
        """Give names the values that the cell has changed; small ones are here already."""
        namespace = self._namespace
        if engine().tasks.describe(changes).inline:
            namespace.update(make_own(engine().api.get(changes), engine().memory(), namespace))
            return
        for name in names:
            brought = RemoteValue(
                name, changes, self._run, among=True, previous=namespace.get(name, MISSING)
            )
            brought.settle()
            namespace[name] = brought


def take_back(namespace: dict[str, Any], name: str) -> None:
    """Give a name whose cell has failed the value that it had before, as far as it had one."""
    lost = value = namespace.get(name)
    while (
        isinstance(lost, RemoteValue)
        and isinstance(value, RemoteValue)
        and value.is_over()
        and value.previous is not MISSING
        and lost.run.depends_on(value.run)
    ):
        value = namespace[name] = value.previous


def take_back_all(namespace: dict[str, Any]) -> None:
    """Do that for the names of all cells whose failure has been told."""
    for name, value in list(namespace.items()):
        if isinstance(value, RemoteValue) and value.run.told and value.is_over():
            take_back(namespace, name)
