"""``%nbray timeline``: the tasks of the cluster as a Chrome trace."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.display import FileLink

from nbray.notebook import engine

from ..pictures.tables import count
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace


class TraceLink(FileLink):
    """The file as a link in a notebook, and as its path where there are no links."""

    def __repr__(self) -> str:
        return str(self.path)


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?",
        help="where to write it; by default timeline-TIME.json beside the notebook",
    )  # fmt: skip


def _timeline(_workspace: Workspace, arguments: argparse.Namespace) -> object:
    path = Path(arguments.file or f"timeline-{time.strftime('%Y%m%d-%H%M%S')}.json").expanduser()
    events = engine().api.timeline() or []
    try:
        path.write_text(json.dumps(events))
    except OSError as error:
        raise UsageError(f"%nbray timeline: {path}: {error.strerror}.") from error
    tasks = sum(event["ph"] == "X" for event in events)
    print(f"{count(tasks, 'task')}, for ui.perfetto.dev or chrome://tracing:")
    return TraceLink(path)  # type: ignore[no-untyped-call]


COMMANDS = (
    Command("timeline", "Write the cluster's tasks as a trace, for ui.perfetto.dev.", _timeline,
            _arguments),
)  # fmt: skip
