"""A cell whose body runs once for each element of a sequence: ``%%remote --map x=xs``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import nbray
from nbray.exceptions import GetTimeoutError
from nbray.notebook import engine

from ..messages import Summary
from .interrupts import stop
from .run import Patience, RemoteRun
from .sending import RUN_CELL, ReadyCell

if TYPE_CHECKING:
    from ..workspace import Workspace

_TICK_S = 0.1


class SpreadRun(RemoteRun):
    """The tasks of one cell over many elements.

    Attributes:
        wanted: the names that come back of each element; empty: the value of the last line.
        elements: what the cell runs over.
        columns: for each element, the refs of what comes back.
        failed_at: the place of the element that failed first.
    """

    wanted: tuple[str, ...] = ()
    elements: Sequence[Any] = ()
    columns: Sequence[Sequence[nbray.ObjectRef]] = ()
    failed_at: int | None = None

    def result(self, timeout: float | None = None) -> list[Any] | dict[str, list[Any]]:
        """What came back, in the order of the elements: a list, or with ``-o`` one for each name.

        Args:
            timeout: seconds; None: what ``--timeout`` of the cell says.

        Raises:
            BaseException: what the first element that failed raised; the others are cancelled.
            GetTimeoutError: not all had ended in time; they are cancelled.
            KeyboardInterrupt: the wait was interrupted, and all are stopped.
        """
        lists = self.collect(timeout)
        return dict(zip(self.wanted, lists, strict=True)) if self.wanted else lists[0]

    def collect(self, timeout: float | None = None) -> list[list[Any]]:
        """Wait for all; one list for each name. Raises as `result` does."""
        try:
            self._wait(self.patience.timeout if timeout is None else timeout)
        except KeyboardInterrupt:
            self.stopped = stop(self._ended_within, self.cancel, self.patience.grace)
            raise
        self.outcome()
        return [nbray.get(list(column)) for column in zip(*self.columns, strict=True)]

    def _wait(self, limit: float | None) -> None:
        until = None if limit is None else time.monotonic() + limit
        pending = list(self.refs)
        places = {ref: place for place, ref in enumerate(self.refs)}
        while pending:
            finished, pending = nbray.wait(pending, num_returns=len(pending), timeout=_TICK_S)
            failed = [ref for ref in finished if engine().tasks.describe(ref).state == "failed"]
            if failed:
                self._has_failed(places[failed[0]])
                nbray.get(self.refs[self.failed_at or 0])
            if until is not None and pending and time.monotonic() > until:
                self.cancel()
                raise GetTimeoutError(
                    f"Remote cell {self.label} did not end within {limit:g} s and was cancelled; "
                    f"{len(self.refs) - len(pending)} of {len(self.refs)} elements were done."
                )

    def _has_failed(self, place: int) -> bool:
        """An element failed; False when another one did before it, and so ended this one."""
        if self.failed_at is not None:
            return False
        self.failed_at = place
        for ref in self.refs:
            nbray.cancel(ref)
        return True

    def watch(self, on_done: Callable[[Future[Summary]], None]) -> None:
        """Call ``on_done`` for each element that ends well, and for the first that fails."""

        def ended(place: int, done: Future[Summary]) -> None:
            if done.exception() is None or self._has_failed(place):
                on_done(done)

        for place, ref in enumerate(self.refs):
            ref.future().add_done_callback(partial(ended, place))


def submit_spread(
    workspace: Workspace,
    ready: ReadyCell,
    elements: Sequence[Any],
    variables: int,
    options: Mapping[str, Any],
    patience: Patience,
) -> SpreadRun:
    """Run a prepared cell for each element.

    Args:
        workspace: this notebook.
        ready: the cell; its first ``variables`` arguments are the element.
        elements: each is a value, or a tuple of ``variables`` values; at least one.
        variables: how many names an element fills.
        options: for the tasks.
        patience: how long to wait, and what an interrupt does.
    """
    task = RUN_CELL.options(
        **{"name": f"cell {ready.label}", **options, "num_returns": ready.cell.returns}
    )
    setups = workspace.setup.payload()
    made: list[list[nbray.ObjectRef]] = []
    for element in elements:
        values = (element,) if variables == 1 else tuple(element)
        refs = task.remote(ready.cell, setups, *values, *ready.arguments)
        made.append(refs if isinstance(refs, list) else [refs])
    run = SpreadRun(
        ready.label, [refs[0] for refs in made], ready.inputs, source=ready.text.source,
        sent_bytes=ready.sent_bytes, patience=patience,
    )  # fmt: skip
    run.elements, run.columns = elements, [refs[1:] for refs in made]
    workspace.runs.append(run)
    return run
