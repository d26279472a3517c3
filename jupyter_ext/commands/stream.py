"""``%nbray stream``: what the tasks of a cell did when, and where."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.display import display

from nbray.debugging.marks import plain
from nbray.exceptions import LocalRayletDiedError, NbrayError
from nbray.notebook import FunctionCounts, engine

from .. import widgets
from ..output.counts import counts_now
from ..pictures.task_stream import Stream, stream
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

logger = logging.getLogger(__name__)

_COUNTS_S = 5.0
_PERIOD_S = 0.5
_MOST = 10_000


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "cell", metavar="CELL", nargs="?",
        help="as In[3] or 3; by default the last one that submitted tasks",
    )  # fmt: skip
    parser.add_argument(
        "--zoom", action="store_true", help="by Bokeh: pan, zoom, and each task under the mouse"
    )


def _run(workspace: Workspace, arguments: argparse.Namespace) -> object:
    counts = counts_now(_COUNTS_S)
    known = {row.origin for row in counts if row.submitted}
    number = _cell(workspace, arguments.cell, known)
    label = workspace.router.label(number)
    if arguments.zoom:
        return _zoom(_look(number, label, counts))
    if getattr(workspace.shell, "kernel", None) is None:
        return _look(number, label, counts)
    shown = _look(number, label, counts)
    name = f"stream-{uuid.uuid4().hex}"
    display(shown, display_id=name)  # type: ignore[no-untyped-call]
    if _unfinished(counts, number):
        cell = workspace.router.current_cell()

        def publish(newer: Stream) -> None:
            data = {"text/plain": repr(newer), "text/html": newer._repr_html_()}
            content = {"data": data, "metadata": {}, "transient": {"display_id": name}}
            workspace.router.publish("update_display_data", content, cell)

        threading.Thread(
            target=_follow, args=(number, label, shown, publish), name="nbray-stream", daemon=True
        ).start()
    return None


def _cell(workspace: Workspace, word: str | None, known: set[int]) -> int:
    """The number of the cell that is asked for.

    Raises:
        UsageError: it has submitted nothing.
    """
    if word is None:
        return max(known, default=0, key=plain)
    wanted = f"In [{''.join(c for c in word if c.isdigit())}]"
    found = [number for number in known if workspace.router.label(number) == wanted]
    if not found:
        raise UsageError(f"%nbray stream: cell {word} has submitted no task.")
    return max(found, key=plain)


def _unfinished(counts: list[FunctionCounts], number: int) -> int:
    return sum(row.unfinished for row in counts if row.origin == number)


def _look(number: int, label: str, counts: list[FunctionCounts]) -> Stream:
    job: str = engine().api.get_runtime_context().get_job_id()
    filters: list[tuple[str, str, str | int]] = [("origin", "=", number), ("job_id", "=", job)]
    rows = [] if not number else engine().state.list_tasks(
        filters=filters, limit=_MOST, detail=True, raise_on_missing_output=False
    )  # fmt: skip
    submitted = sum(row.submitted for row in counts if row.origin == number)
    return stream(label, rows, time.time() * 1e3, submitted)


def _follow(number: int, label: str, shown: Stream, publish: Callable[[Stream], None]) -> None:
    """Bring the picture up to date until all tasks have ended; it stays as it is then.

    A cluster that does not answer is asked again: what it does goes on.
    """
    running = True
    while running and engine().api.is_initialized():
        began = time.monotonic()
        try:
            counts = counts_now(_COUNTS_S)
            if counts:  # else none have come: this cell has some
                newer = _look(number, label, counts)
                running = bool(_unfinished(counts, number))
                if newer != shown:
                    publish(newer)
                    shown = newer
        except LocalRayletDiedError:
            logger.info("The task stream of %s ends: the cluster is lost.", label)
            return
        except (NbrayError, OSError) as error:
            logger.info("The task stream of %s waits for the cluster: %s", label, error)
        # Many tasks take long to ask for: the cluster has better things to do.
        time.sleep(max(_PERIOD_S, 5 * (time.monotonic() - began)))


def _zoom(shown: Stream) -> object:
    for package in ("bokeh", "ipywidgets"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"%nbray stream --zoom: {package} is not installed.")
    return widgets.zoom(shown) if shown.lanes else shown


def _labels(workspace: Workspace, _given: Sequence[str]) -> list[str]:
    known = {row.origin for row in counts_now(_COUNTS_S) if row.submitted}
    return sorted({workspace.router.label(number).replace(" ", "") for number in known} - {""})


COMMANDS = (
    Command("stream", "What the tasks of a cell did when, on which worker.", _run, _arguments,
            {"cell": _labels}),
)  # fmt: skip
