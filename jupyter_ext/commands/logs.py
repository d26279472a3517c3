"""``%nbray logs``: what the processes of the cluster wrote."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

import nbray
from nbray.common.log_files import Log, is_piece
from nbray.common.text import coloured
from nbray.jupyter_ext.command_line import Parser, did_you_mean
from nbray.jupyter_ext.commands.base import Command
from nbray.jupyter_ext.tables import Table, as_bytes
from nbray.util.local_state import session_dir
from nbray.util.state import list_actors, list_workers

if TYPE_CHECKING:
    from nbray.jupyter_ext.workspace import Workspace

_LINES = 100


def _files() -> dict[str, Path]:
    """The logs of this machine's node by name."""
    found = sorted((session_dir() / "logs").iterdir())
    return {path.name: path for path in found if not is_piece(path.name)}


def _words(_workspace: Workspace, _given: Sequence[str]) -> list[str]:
    if not nbray.is_initialized():
        return []
    workers = list_workers(
        filters=[("is_alive", "=", True)], limit=10_000, raise_on_missing_output=False
    )
    return [*_files(), *(str(worker.pid) for worker in workers if worker.worker_type == "WORKER")]


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "what", metavar="WHAT", nargs="?",
        help="a log's name or how it begins (raylet, gcs), a worker's pid, an actor's name",
    )  # fmt: skip
    parser.add_argument(
        "--tail", type=int, metavar="N", default=_LINES, help=f"the last N lines ({_LINES})"
    )
    parser.add_argument("--grep", metavar="TEXT", help="only lines with TEXT")


def _logs(_workspace: Workspace, arguments: argparse.Namespace) -> object:
    files = _files()
    if arguments.what is None:
        rows = [(name, as_bytes(Log(path).size())) for name, path in files.items()]
        return Table(("log", "size"), rows, title=str(session_dir() / "logs"))
    chosen = _chosen(arguments.what, files)
    for path in chosen:
        lines = Log(path).text().splitlines()
        if arguments.grep:
            lines = [line for line in lines if arguments.grep in line]
        if len(chosen) > 1 and lines:
            print(f"--- {path.name}")
        shown = lines[-arguments.tail :]
        if shown:
            print("\n".join(map(coloured, shown)))
        elif len(chosen) == 1:
            print(f"{path.name} has no such line." if arguments.grep else f"{path.name} is empty.")
    return None


def _chosen(what: str, files: dict[str, Path]) -> list[Path]:
    """The logs that ``what`` means.

    Raises:
        UsageError: none, or they are on another machine.
    """
    for actor in list_actors(limit=10_000):
        if actor.name == what and actor.pid:
            what = str(actor.pid)
    begins = what
    if what.isdigit():
        workers = list_workers(limit=10_000, raise_on_missing_output=False)
        found = [worker for worker in workers if str(worker.pid) == what]
        if not found:
            raise UsageError(f"%nbray logs: no worker of the cluster has pid {what}.")
        begins = f"worker-{found[0].worker_id[:12]}"
    chosen = [path for name, path in files.items() if name.startswith(begins)]
    if not chosen and what.isdigit():
        raise UsageError(
            f"%nbray logs: the worker is on node {found[0].node_id[:12]}; its log is there, in "
            f"the session folder, as {begins}.err and .out."
        )
    if not chosen:
        raise UsageError(f"%nbray logs: there is no log {what!r}.{did_you_mean(what, files)}")
    return chosen


COMMANDS = (
    Command("logs", "The logs of this node: a list, or the last lines of one.", _logs, _arguments,
            {"what": _words}),
)  # fmt: skip
