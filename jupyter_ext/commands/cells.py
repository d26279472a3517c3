"""``%nbray cells``, ``cancel``, ``tb``, ``config``: about this notebook's own remote cells."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from ..pictures.tables import Table, as_bytes
from ..settings import Settings
from ..words import did_you_mean
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace


def _cells(workspace: Workspace, _arguments: argparse.Namespace) -> object:
    rows = [
        (run.label, run.state(), f"{run.seconds():.1f} s", as_bytes(run.sent_bytes), run.what())
        for run in workspace.runs
    ]
    if not rows:
        return Table((), (), notes=["No remote cell has run yet."])
    return Table(("cell", "state", "time", "sent", "what"), rows)


def running_labels(workspace: Workspace, _given: Sequence[str]) -> list[str]:
    running = [run.label for run in workspace.runs if run.state() == "running"]
    return [label.replace(" ", "") for label in running]


def _cancel_arguments(parser: Parser) -> None:
    parser.add_argument(
        "cell", metavar="CELL", nargs="?", help="as In[3] or 3; by default all that run"
    )
    parser.add_argument("--force", action="store_true", help="kill the workers")


def _cancel(workspace: Workspace, arguments: argparse.Namespace) -> object:
    running = [run for run in workspace.runs if run.state() == "running"]
    if arguments.cell is not None:
        number = "".join(c for c in arguments.cell if c.isdigit())
        running = [run for run in running if run.label == f"In [{number}]"]
        if not running:
            raise UsageError(f"%nbray cancel: no remote cell {arguments.cell} is running.")
    for run in running:
        run.cancel(force=arguments.force)
    done = "killed" if arguments.force else "asked to stop"
    print(", ".join(run.label for run in running) + f" {done}." if running else "Nothing runs.")
    return None


def _tb(workspace: Workspace, _arguments: argparse.Namespace) -> object:
    last = workspace.errors.last
    print(last.text or "There was no remote error yet.")
    return None


def _config_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a setting")
    parser.add_argument("value", metavar="VALUE", nargs="?", help="what to set it to")


def _config(workspace: Workspace, arguments: argparse.Namespace) -> object:
    settings = workspace.settings
    if arguments.name is not None and arguments.name not in Settings.names():
        hint = did_you_mean(arguments.name, Settings.names())
        raise UsageError(f"%nbray config: there is no setting {arguments.name!r}.{hint}")
    if arguments.value is not None:
        try:
            settings.set(arguments.name, arguments.value)
        except ValueError as error:
            raise UsageError(f"%nbray config: {error}.") from error
    rows = [row for row in settings.rows() if arguments.name in (None, row[0])]
    return Table(("setting", "value", "meaning"), rows)


def _setup_arguments(parser: Parser) -> None:
    parser.add_argument("--drop", metavar="NAME", help="forget that set-up cell")


def _setup(workspace: Workspace, arguments: argparse.Namespace) -> object:
    if arguments.drop is not None:
        if not workspace.setup.drop(arguments.drop):
            hint = did_you_mean(arguments.drop, workspace.setup.names())
            raise UsageError(f"%nbray setup: there is no set-up cell {arguments.drop!r}.{hint}")
        print("Forgotten; workers where it ran keep what it did.")
    rows = workspace.setup.rows()
    if not rows:
        return Table((), (), notes=["No set-up cell: %%remote --every makes one."])
    return Table(("name", "cell", "first line"), rows)


COMMANDS = (
    Command("cells", "The remote cells of this notebook.", _cells, needs_cluster=False),
    Command("cancel", "Stop remote cells that run.", _cancel, _cancel_arguments,
            {"cell": running_labels}),
    Command("setup", "The set-up cells that run on every worker (%%remote --every).", _setup,
            _setup_arguments, {"drop": lambda w, _given: w.setup.names()}, needs_cluster=False),
    Command("tb", "The whole traceback of the last remote error.", _tb, needs_cluster=False),
    Command("config", "Show settings, or set one: %nbray config NAME VALUE.", _config,
            _config_arguments,
            {"name": lambda _w, _given: Settings.names(),
             "value": lambda _w, given: Settings.choices(given[0])}, needs_cluster=False),
)  # fmt: skip
