"""``%nbray attach NAME`` and ``%nbray results``: cells that live in the cluster."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbray.exceptions import NbrayError, TaskCancelledError
from nbray.notebook import engine

from ..cell.errors import debug_hint, remote_lines
from ..cell.run import Detached
from ..kept import space
from ..kept.following import (
    Follower,
    Results,
    error_of,
    failures_of,
    has_keeper,
    results_of,
    state_of,
)
from ..kept.handing import NotKeptError, check_name, drop, is_kept, stop
from ..kept.record import Limits
from ..kept.space import Row
from ..kept.tied import TiedRun, running
from ..output.router import OutputRouter
from ..pictures.tables import Table, as_bytes
from ..words import did_you_mean, quoted
from ..worker.running import remember
from .base import Command
from .cells import running_labels
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_LOOK_S = 0.25
_ASK_S = 2.0
_SHOWN = 200


def known_names() -> list[str]:
    """The names of all detached cells."""
    return space.names()


def running_names() -> list[str]:
    """Those of the cells that run; none when the cluster does not answer."""
    try:
        return [row.name for row in space.rows() if not (row.is_over or row.tied) and is_kept(row)]
    except NbrayError:
        return []


def attach(workspace: Workspace, name: str) -> None:
    """Show a detached cell here, from its beginning to its end; then its names have their values.

    Raises:
        UsageError: there is none of that name.
        BaseException: what it raised.
    """
    row = _found(name, "%nbray attach")
    cell = workspace.router.current_cell()
    try:
        _follow(Follower(lambda: [name], partial(_publish, workspace.router, cell)), row)
    except KeyboardInterrupt:
        error = Detached(f"{name} goes on in the cluster.")
        lines = [
            f"Let go of {name}, which goes on in the cluster: %nbray attach {name} shows it again, "
            f"%nbray results --stop {name} ends it."
        ]
        raise workspace.errors.rendered(error, lines, f"detached cell {name}") from None
    with workspace.router.for_itself():
        _bring(workspace, _still(row, "%nbray attach"))


def follow_here(workspace: Workspace, name: str) -> None:
    """Show a detached cell in the cell that runs now, in the background."""
    show = shower(workspace, lambda: [name])
    router, cell = workspace.router, workspace.router.current_cell()

    def serve() -> None:
        try:
            last = show()
        except NbrayError:  # this kernel has left the cluster; the cell goes on
            return
        if last is not None:
            state = state_of(last)
            is_or_has = "has" if state == "failed" else "is"
            text = f"{name} {is_or_has} {state}: {_what_next(last)}"
            stream = "stdout" if last.state == "done" else "stderr"
            router.publish("stream", {"name": stream, "text": text + "\n"}, cell)

    if workspace.router.is_in_notebook:
        threading.Thread(target=serve, name=f"nbray-follow-{name}", daemon=True).start()


def shower(
    workspace: Workspace, names: Callable[[], Sequence[str]]
) -> Callable[[], Row | None]:  # fmt: skip
    """What shows a detached cell in the cell that runs now, to its end."""
    publish = partial(_publish, workspace.router, workspace.router.current_cell())
    return lambda: _follow(Follower(names, publish), space.find(names()[0]))


def _publish(
    router: OutputRouter, cell: dict[str, Any], kind: str, content: dict[str, Any]
) -> None:  # fmt: skip
    router.publish(kind, content, cell)


def _what_next(row: Row) -> str:
    if row.state == "done" and row.results:
        names = ", ".join(
            name or kind for name, (kind, _, _) in row.results.items() if kind != "module"
        )
        return f"%nbray attach {row.name} brings {names}."
    return f"%nbray attach {row.name} shows it."


def _follow(follower: Follower, row: Row | None) -> Row | None:
    """Show what comes until the cell has ended; None when it was dropped meanwhile."""
    asked = time.monotonic()
    while row is not None:
        row = follower.show_new()
        if row is None or row.is_over:
            break
        if time.monotonic() - asked >= _ASK_S:
            if state_of(row) == "lost":
                break
            asked = time.monotonic()
        time.sleep(_LOOK_S)
    return row


def _bring(workspace: Workspace, row: Row) -> None:
    """Give the notebook's names what the cell made, or raise what it raised."""
    state = state_of(row)
    title = f"detached cell {row.name}"
    for note in _notes(row):
        print(note)
    if state == "lost":
        raise UsageError(
            f"%nbray attach: {row.name} ({row.label}) has not ended: what ran it has ended before, "
            "by a kill or with its node. Its output so far is above; run the cell again."
        )
    if state in ("failed", "cancelled"):
        remember(f"<remote cell {row.name} ({row.label})>", row.source)
        error = error_of(row) or RuntimeError("what it raised is not known")
        failures = failures_of(row)
        for told in failures:
            workspace.aside(told)
        hint = f" {debug_hint()}" if failures else ""
        lines = (
            [f"{row.name} ({row.label}) was cancelled."]
            if isinstance(error, TaskCancelledError)
            else [
                *remote_lines(error, workspace.errors.cells), "",
                f"Detached cell {row.name} ({row.label}) did not finish.{hint}",
            ]
        )  # fmt: skip
        raise workspace.errors.rendered(error, lines, title) from None
    found = results_of(row, workspace.namespace)
    _give(workspace, found)
    brought = [*found.values, *found.changed, *found.lists, *found.remote]
    if names := [name for name in brought if row.results.get(name, ("",))[0] != "module"]:
        print(f"From {row.name} ({row.label}): {', '.join(names)}.")
    for name, why in found.missing.items():
        print(f"Without {name}: {why}.")


def _give(workspace: Workspace, found: Results) -> None:
    names = workspace.namespace
    lists = {name: engine().api.get(refs) for name, refs in found.lists.items()}
    for name, value in {**found.values, **found.changed, **lists}.items():
        names[name] = workspace.own(value)
    names.update(found.remote)


def _notes(row: Row) -> list[str]:
    notes = list(row.notes)
    if row.left_out:
        notes.append(
            f"{row.left_out:,} displays of {row.name} were not kept, beside {as_bytes(row.size)} "
            f"that are: at most {Limits().displays} displays of a cell, and kept_output bytes of "
            "them (%nbray config)."
        )
    return notes


def _found(name: str, command: str) -> Row:
    row = space.find(name)
    if row is None:
        hint = did_you_mean(name, known_names())
        raise UsageError(f"{command}: there is no detached cell {quoted(name)}.{hint}")
    return row


def _still(row: Row, command: str) -> Row:
    """What is known of a cell now, which another notebook may have dropped meanwhile."""
    now = space.find(row.name)
    if now is None or now.id != row.id:
        raise UsageError(
            f"{command}: {row.name} ({row.label}) was dropped by somebody while it was shown here. "
            "What it has shown is above, its results are gone."
        )
    return now


def _results_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="bring the results of that cell")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--drop", action="store_true", help="forget it, its output and its results")
    what.add_argument("--stop", action="store_true", help="have it stop, as an interrupt does")
    what.add_argument("--kill", action="store_true", help="end its workers")


def _results(workspace: Workspace, arguments: argparse.Namespace) -> object:
    name = arguments.name
    acts = arguments.drop or arguments.stop or arguments.kill
    if name is None:
        if acts:
            raise UsageError("%nbray results: which cell? Give its name.")
        return _table()
    row = _found(name, "%nbray results")
    with workspace.router.for_itself():
        return _with_one(workspace, arguments, row)


def _with_one(workspace: Workspace, arguments: argparse.Namespace, row: Row) -> object:
    name = row.name
    try:
        if arguments.drop:
            drop(row)
            print(f"{name} is forgotten.")
        elif arguments.stop or arguments.kill:
            ran = stop(row, arguments.kill)
            print(f"{name} " + ("is asked to stop." if ran else "does not run."))
        elif row.is_over or state_of(row) == "lost":
            _bring(workspace, row)
        else:
            print(f"{name} runs; %nbray attach {name} waits for it.")
    except NotKeptError as error:
        now = space.find(name)
        if now is not None and now.is_over and not row.is_over:  # it has ended meanwhile
            return _with_one(workspace, arguments, now)
        raise UsageError(f"%nbray results: {str(error).rstrip('.')}.") from error
    return None


def _table() -> Table:
    rows = [row for row in space.rows() if not row.tied]
    if not rows:
        return Table((), (), notes=["No detached cell. %%remote --detach NAME makes one."])
    kept = sum(row.in_store for row in rows)
    notes = [
        "%nbray attach NAME shows one and brings its results, %nbray results --help tells more."
    ]
    if kept:
        notes.insert(0, f"Their results take {as_bytes(kept)} of the object store.")
    if len(rows) > _SHOWN:
        notes.insert(0, f"The newest {_SHOWN} of {len(rows):,} are shown.")
    alive: dict[tuple[str, str], bool] = {}
    return Table(
        ("name", "cell", "state", "began", "took", "output", "results", "by"),
        [_cells(row, alive) for row in rows[-_SHOWN:]], notes=notes,
    )  # fmt: skip


def _cells(row: Row, alive: dict[tuple[str, str], bool]) -> tuple[str, ...]:
    state = state_of(row, alive)
    lost = row.in_store and not has_keeper(row, alive)
    results = ", ".join(
        f"{name or kind} {as_bytes(size)}" + (" (lost)" if lost and place == "store" else "")
        for name, (kind, size, place) in row.results.items()
        if kind != "module"
    )
    began = time.strftime("%d %b %H:%M:%S", time.localtime(row.began))
    return (
        row.name, row.label, state, began,
        "" if state == "lost" else f"{(row.ended or time.time()) - row.began:.0f} s",
        as_bytes(row.size), results, row.by,
    )  # fmt: skip


def names_to_complete(_workspace: Workspace, _given: Sequence[str]) -> list[str]:
    """The names of detached cells, if there is a cluster."""
    return known_names() if engine().api.is_initialized() else []


def _detach_arguments(parser: Parser) -> None:
    parser.add_argument("cell", metavar="CELL", help="as In[3] or 3")
    parser.add_argument("name", metavar="NAME", nargs="?", help="what it is to be called")


def _detach(workspace: Workspace, arguments: argparse.Namespace) -> object:
    number = "".join(c for c in arguments.cell if c.isdigit())
    run = running(workspace.runs, number)
    if run is None:
        raise UsageError(f"%nbray detach: no remote cell {arguments.cell} is running.")
    if not isinstance(run, TiedRun):
        raise UsageError(
            f"%nbray detach: {run.label} hangs on this kernel to its end, since a task that runs "
            f"keeps its owner: `%nbray cancel {run.label.replace(' ', '')}` and run it again with "
            "%%remote --detach NAME, or say `%nbray config detachable yes` before the next one."
        )
    name = arguments.name or f"In{number}"
    try:
        check_name(name)
        with workspace.router.for_itself():
            run.let_loose(name)
    except NotKeptError as error:
        raise UsageError(f"%nbray detach: {error}.") from error
    print(f"{run.label} is detached as {name}: %nbray attach {name} shows it in any notebook.")
    return None


COMMANDS = (
    Command("detach", "Let go of a remote cell that runs: it outlives this kernel.", _detach,
            _detach_arguments, {"cell": running_labels}),
    Command("results", "Detached cells (%%remote --detach): list, bring, stop, drop.", _results,
            _results_arguments, {"name": names_to_complete}),
)  # fmt: skip
