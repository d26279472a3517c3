"""A cell whose body runs once for each element of a sequence: ``%%remote --map x=xs``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import nbray
from nbray.exceptions import GetTimeoutError
from nbray.jupyter_ext.cell_sending import RUN_CELL, ReadyCell
from nbray.jupyter_ext.interrupts import stop
from nbray.jupyter_ext.remote_run import Patience, RemoteRun
from nbray.util import local_state

if TYPE_CHECKING:
    from nbray.jupyter_ext.workspace import Workspace

_TICK_S = 0.1


class SpreadRun(RemoteRun):  # type: ignore[misc]
    """The tasks of one cell over many elements."""

    elements: Sequence[Any] = ()
    failed_at: int | None = None


def run_spread(
    workspace: Workspace,
    ready: ReadyCell,
    elements: Sequence[Any],
    variables: int,
    options: Mapping[str, Any],
    patience: Patience,
) -> tuple[SpreadRun, list[list[Any]]]:
    """Run a prepared cell for each element, and wait for all.

    Args:
        workspace: this notebook.
        ready: the cell; its first ``variables`` arguments are the element.
        elements: each is a value, or a tuple of ``variables`` values.
        variables: how many names an element fills.
        options: for the tasks.
        patience: how long to wait, and what an interrupt does.

    Returns:
        The run, and the lists of what came back, in order: one list for each wanted name.

    Raises:
        BaseException: what the first element that failed raised; the others are cancelled.
    """
    task = RUN_CELL.options(
        **{"name": f"cell {ready.label}", **options, "num_returns": 1 + len(ready.cell.assigns)}
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
    run.elements = elements
    workspace.runs.append(run)
    try:
        _wait(run)
    except KeyboardInterrupt:
        run.stopped = stop(
            lambda seconds: run.outcome(timeout=seconds) is not None, run.cancel, patience.grace
        )
        raise
    run.outcome()
    columns = [nbray.get([refs[1 + i] for refs in made]) for i in range(len(ready.cell.assigns))]
    return run, columns


def _wait(run: SpreadRun) -> None:
    limit = run.patience.timeout
    until = None if limit is None else time.monotonic() + limit
    pending = list(run.refs)
    places = {ref: place for place, ref in enumerate(run.refs)}
    while pending:
        finished, pending = nbray.wait(pending, num_returns=len(pending), timeout=_TICK_S)
        failed = [ref for ref in finished if local_state.describe(ref).state == "failed"]
        if failed:
            run.failed_at = places[failed[0]]
            for ref in pending:
                nbray.cancel(ref)
            nbray.get(failed[0])
        if until is not None and pending and time.monotonic() > until:
            run.cancel()
            raise GetTimeoutError(
                f"Remote cell {run.label} did not end within {limit:g} s and was cancelled; "
                f"{len(run.refs) - len(pending)} of {len(run.refs)} elements were done."
            )
