"""``%nbray logs``: what the processes of the cluster wrote."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from nbray.common.log_files import Log, is_piece
from nbray.common.text import coloured
from nbray.exceptions import NbrayError
from nbray.notebook import WorkerState, engine

from ..pictures.tables import Table, as_bytes
from ..words import did_you_mean
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_LINES = 100


def _files() -> dict[str, Path]:
    """The logs of this machine's node by name."""
    try:
        found = sorted(engine().cluster.logs().iterdir())
    except NbrayError as error:
        raise UsageError(f"%nbray logs: {error}") from error
    return {path.name: path for path in found if not is_piece(path.name)}


def _words(_workspace: Workspace, _given: Sequence[str]) -> list[str]:
    if not engine().api.is_initialized():
        return []
    workers = engine().state.list_workers(
        filters=[("is_alive", "=", True)], limit=10_000, raise_on_missing_output=False
    )
    return [*_files(), *(str(worker.pid) for worker in workers if worker.worker_type == "WORKER")]


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "what", metavar="WHAT", nargs="?",
        help="a log's name or how it begins (raylet, gcs), a worker's pid or id, "
        "an actor's name or id",
    )  # fmt: skip
    parser.add_argument(
        "--tail", type=int, metavar="N", default=_LINES, help=f"the last N lines ({_LINES})"
    )
    parser.add_argument("--grep", metavar="TEXT", help="only lines with TEXT")


def _logs(_workspace: Workspace, arguments: argparse.Namespace) -> object:
    files = _files()
    if arguments.what is None:
        rows = [(name, as_bytes(Log(path).size())) for name, path in files.items()]
        return Table(("log", "size"), rows, title=str(engine().cluster.logs()))
    chosen = _chosen(arguments.what, files)
    for name, lines in chosen:
        if arguments.grep:
            lines = [line for line in lines if arguments.grep in line]
        if len(chosen) > 1 and lines:
            print(f"--- {name}")
        shown = lines[-arguments.tail :]
        if shown:
            print("\n".join(map(coloured, shown)))
        elif len(chosen) == 1:
            print(f"{name} has no such line." if arguments.grep else f"{name} is empty.")
    return None


def _chosen(what: str, files: dict[str, Path]) -> list[tuple[str, list[str]]]:
    """The names and lines of the logs that ``what`` means.

    Raises:
        UsageError: there are none.
    """
    local = [path for name, path in files.items() if name.startswith(what)]
    if local and not what.isdecimal():
        return [(path.name, Log(path).text().splitlines()) for path in local]
    try:
        worker = engine().cluster.worker(what)
        if worker is not None:
            return [_of_worker(worker, suffix) for suffix in ("err", "out")]
    except NbrayError as error:
        raise UsageError(f"%nbray logs: {error}") from error
    if what.isdecimal():
        raise UsageError(f"%nbray logs: no worker of the cluster has pid {what}.")
    raise UsageError(f"%nbray logs: there is no log {what!r}.{did_you_mean(what, files)}")


def _of_worker(worker: WorkerState, suffix: str) -> tuple[str, list[str]]:
    """A log of a worker on whichever node, also of one that has ended."""
    parts = engine().state.get_log(
        worker_id=worker.worker_id, suffix=suffix, tail=-1, errors="replace"
    )
    return f"worker-{worker.worker_id[:12]}.{suffix}", "".join(map(str, parts)).splitlines()


COMMANDS = (
    Command("logs", "The logs of this node: a list, or the last lines of one.", _logs, _arguments,
            {"what": _words}),
)  # fmt: skip
