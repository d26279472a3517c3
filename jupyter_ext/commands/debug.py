"""``%nbray debug``: into the frames of a task that failed, or that stands in a debugger."""

from __future__ import annotations

import argparse
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbray.debugging.marks import HOLD
from nbray.debugging.taking import users_frames
from nbray.notebook import engine

from ..cell.failures import function_of, rebuilt
from ..messages import Cell
from ..worker.running import run_cell
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_ARGUMENTS_S = 60.0


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "--hold", choices=("on", "off"), nargs="?", const="on",
        help="from the next cell on, a task that fails waits with its live frames (off: no more)",
    )  # fmt: skip
    parser.add_argument(
        "--rerun", action="store_true",
        help="run the failed task here, with its own arguments; where it fails, the debugger opens",
    )  # fmt: skip


def _debug(workspace: Workspace, arguments: argparse.Namespace) -> object:
    if arguments.hold is not None:
        workspace.router.marks &= ~HOLD
        workspace.router.marks |= HOLD if arguments.hold == "on" else 0
        does = "wait in their workers until" if arguments.hold == "on" else "do not wait until"
        print(f"Tasks of the cells from here on that fail {does} you have looked at them.")
        return None
    if arguments.rerun:
        return _rerun(workspace)
    if workspace.stops.waits():
        workspace.stops.serve()
        return None
    _post_mortem(workspace)
    return None


def _post_mortem(workspace: Workspace) -> None:
    last = workspace.errors.last
    if not last.tasks:
        raise UsageError("%nbray debug: no task has failed yet, and none stands in a debugger.")
    failures = workspace.failures.of(last.tasks, wait=True)
    if not failures:
        raise UsageError(
            "%nbray debug: the frames of the last error are not here: its task failed before this "
            "notebook looked, or after many others of its cell. %%remote --debug has a task wait."
        )
    error, tb, notes = rebuilt(failures, last.cause, workspace.namespace)
    if tb is None:
        raise UsageError("%nbray debug: the last error has no frames of yours; see %nbray tb.")
    first = failures[0].source
    print(f"{first.name} (pid {first.pid}) failed; these are copies of its frames.", *notes)
    _enter(workspace, error, tb)


def _rerun(workspace: Workspace) -> object:
    """Run the task that raised first; returns its value if it does not fail here."""
    failures = workspace.failures.of(workspace.errors.last.tasks, wait=True)
    task = failures[0].task if failures else None
    if task is None:
        raise UsageError(
            "%nbray debug --rerun: there is no failed task whose arguments are kept: none has "
            "failed, its arguments were large and no refs, or others have failed since."
        )
    if task.of_actor:
        raise UsageError(
            f"%nbray debug --rerun: {task.name} is a call of an actor, whose state is not here. "
            "%nbray debug --hold has the next one that fails wait in the actor."
        )
    args, kwargs = task.arguments()
    refs = list(task.refs.values())
    if refs:
        ready, _ = engine().api.wait(refs, num_returns=len(refs), timeout=_ARGUMENTS_S)
        if len(ready) < len(refs):
            raise UsageError("%nbray debug --rerun: its arguments do not come.")
    for place, ref in task.refs.items():
        value = engine().api.get(ref)
        if isinstance(place, int):
            args[place] = value
        else:
            kwargs[place] = value
    if args and isinstance(args[0], Cell):
        function: Any = run_cell
    else:
        function = function_of(failures[0], workspace.namespace)
    if not callable(function):
        raise UsageError(f"%nbray debug --rerun: this notebook has no function {task.name} (now).")
    print(f"{task.name} runs here, with the arguments that it had.")
    try:
        value = function(*args, **kwargs)
    except Exception as error:  # the user's
        tb = users_frames(error.__traceback__)
        if tb is None:
            raise
        _enter(workspace, error.with_traceback(tb), tb)
        return None
    print("It did not fail here.")
    return None if function is run_cell else value


def _enter(workspace: Workspace, error: BaseException, tb: TracebackType) -> None:
    """The kernel's own debugger; ``%debug`` finds the same again."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, tb
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    shell = workspace.shell
    shell.InteractiveTB.tb = tb
    shell.debugger(force=True)  # type: ignore[no-untyped-call]


COMMANDS = (
    Command("debug", "Look into the frames of the last remote error, or of a task that stopped.",
            _debug, _arguments),
)  # fmt: skip
