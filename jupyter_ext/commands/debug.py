"""``%nbray debug``: into the frames of a task that failed, or that stands in a debugger."""

from __future__ import annotations

import argparse
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from nbray.debugging.marks import HOLD

from ..cell.failures import rebuilt
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "--hold", choices=("on", "off"), nargs="?", const="on",
        help="from the next cell on, a task that fails waits with its live frames (off: no more)",
    )  # fmt: skip


def _debug(workspace: Workspace, arguments: argparse.Namespace) -> object:
    if arguments.hold is not None:
        workspace.router.marks &= ~HOLD
        workspace.router.marks |= HOLD if arguments.hold == "on" else 0
        does = "wait in their workers until" if arguments.hold == "on" else "do not wait until"
        print(f"Tasks of the cells from here on that fail {does} you have looked at them.")
        return None
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
