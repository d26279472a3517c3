"""``%nbray jobs``: what was submitted to the cluster, and what joined it by itself."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbray.job_submission import JobSubmissionClient
from nbray.notebook import JobState, engine

from ..pictures.tables import Table
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_MOST = 200
_LINES = 40


def _job_words(_workspace: Workspace, _given: Sequence[str]) -> list[str]:
    """The submission ids."""
    return [row.submission_id for row in engine().state.list_jobs() if row.submission_id]


def _arguments(parser: Parser) -> None:
    parser.add_argument("job", metavar="ID", nargs="?", help="a submission id: its last lines")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--stop", action="store_true", help="end it")
    what.add_argument("--delete", action="store_true", help="forget it, when it has ended")
    parser.add_argument("--all", action="store_true", help="also drivers that have ended")


def _jobs(_workspace: Workspace, arguments: argparse.Namespace) -> object:
    if arguments.job is None:
        if arguments.stop or arguments.delete:
            raise ValueError("Which job? Give its submission id, as `%nbray jobs` shows it.")
        return _table(arguments.all)
    address = engine().api.get_runtime_context().gcs_address
    client = JobSubmissionClient(address)
    if arguments.stop:
        ended = not client.stop_job(arguments.job)
        return Table((), (), notes=[f"{arguments.job} " + ("had ended." if ended else "ends.")])
    if arguments.delete:
        client.delete_job(arguments.job)
        return Table((), (), notes=[f"{arguments.job} is forgotten."])
    found = client.get_job_info(arguments.job)
    lines = client.get_job_logs(arguments.job).splitlines()
    notes = [f"{found.submission_id or found.job_id} is {found.status}: {found.message or ''}"]
    if len(lines) > _LINES:
        notes.append(f"The last {_LINES} of {len(lines)} lines:")
    return Table((), (), notes=[*notes, *lines[-_LINES:]])


def _table(everything: bool) -> Table:
    found = [
        row
        for row in engine().state.list_jobs(detail=True, limit=10_000)
        if everything or row.type == "SUBMISSION" or row.status == "RUNNING"
    ]
    if not found:
        return Table((), (), notes=["No job was submitted. In a shell: nbray job submit -- CMD"])
    counts: dict[str, int] = {}
    for row in found:
        counts[row.status] = counts.get(row.status, 0) + 1
    notes = [", ".join(f"{count} {name.lower()}" for name, count in counts.items())]
    notes += [
        f"{row.submission_id} waits: {row.message}" for row in found if row.status == "PENDING"
    ]
    if len(found) > _MOST:
        notes.append(f"{_MOST} of {len(found)} jobs are shown.")
    rows = [_cells(row) for row in found[:_MOST]]
    return Table(("job", "status", "command", "began", "took"), rows, notes=notes)


def _cells(row: JobState) -> tuple[str, ...]:
    began = (row.start_time or 0) / 1000
    ended = row.end_time / 1000 if row.end_time else time.time()
    return (
        row.submission_id or f"driver {row.job_id}", row.status, row.entrypoint[:80],
        time.strftime("%H:%M:%S", time.localtime(began)), f"{max(0.0, ended - began):.0f} s",
    )  # fmt: skip


COMMANDS = (
    Command(
        "jobs", "The jobs that were submitted; one of them, to read, stop or forget it.", _jobs,
        _arguments, {"job": _job_words},
    ),
)  # fmt: skip
