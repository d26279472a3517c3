"""What tasks print and display goes to the cell that submitted them, also when it arrives late.

Each cell has a number, which travels with the tasks that the cell submits, with what these submit,
and with their output (see `nbray.notebook.Output`). The engine hands output over on whichever
thread drives its sockets; here it is only put into a queue. A thread of the router's own takes it
from there: a `CellOutput` decides what the cell shows, which leaves through ipykernel's IO thread
with the cell's request as its parent.

What is not lines (progress bars, counts of lines that are not shown, the progress of tasks)
stands in one panel for each cell: a display that is updated, at most four times a second.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from nbray.notebook import OutputDisplay, OutputLines, engine

from ..words import sendable
from .capturing import is_redirected, redirect
from .cell_output import CellOutput, Source
from .progress import Panel, TaskProgress
from .recording import Recording

logger = logging.getLogger(__name__)

OF_NO_CELL = -1
"""The number of what the notebook submits for itself."""
_CELLS = 1000
_QUEUED = 20_000
_TICK_S = 0.05
_PANEL_S = 0.25
_REDIRECTED_S = 1.0


class _Cell:
    """One cell's request and what it shows of its tasks."""

    def __init__(self, number: int, parent: dict[str, Any], label: str = "") -> None:
        self.number = number
        self.label = label
        self.parent = parent
        self.output = CellOutput()
        self.panel = Panel()
        self.panel_shown = ""
        self.panel_time = 0.0
        self.quiet = False
        self.recording: Recording | None = None


class Kernel(Protocol):
    """What the router needs of ipykernel's kernel."""

    session: Any
    iopub_socket: Any
    ident: str

    def get_parent(self) -> dict[str, Any]:
        """The request that runs now, in this thread."""


class OutputRouter:
    """Sends output to cells. It is the engine's `Listener`.

    Attributes:
        progress: of tasks.
        marks: what the next cells are watched for; see `mark`.
    """

    def __init__(self, kernel: Kernel | None, cell_label: Callable[[], str]) -> None:
        """``kernel`` is ipykernel's kernel, or None in a terminal.

        ``cell_label`` says which cell runs now, as ``In [3]``.
        """
        self._kernel = kernel
        self._cell_label = cell_label
        self._lock = threading.RLock()
        self._queue: deque[OutputLines | OutputDisplay] = deque()
        self._cells: OrderedDict[int, _Cell] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._active: set[int] = set()
        self._latest = 0
        self._count = 0
        self.marks = 0
        self._plain: deque[bytes] = deque(maxlen=_CELLS)
        self._wake = threading.Event()
        self._closed = False
        self._interrupted = False
        self._terminal_panel = ""
        self.progress = TaskProgress()
        self._thread = threading.Thread(target=self._serve, name="nbray-output", daemon=True)
        self._thread.start()

    # --- cells --------------------

    def before_cell(self, _info: object = None) -> None:
        """What is submitted from here on belongs to the cell that runs now."""
        try:
            self._begin_cell()
        except KeyboardInterrupt:  # IPython would show it as an error of ours, and run the cell
            self._interrupted = True
            self._begin_cell()

    def take_interrupt(self) -> bool:
        """Whether an interrupt came while a cell began; once."""
        taken, self._interrupted = self._interrupted, False
        return taken

    def _begin_cell(self) -> None:
        parent: dict[str, Any] = {} if self._kernel is None else self._kernel.get_parent()
        with self._lock:
            self._count += 1
            self._latest = self._count | self.marks
            self._cells[self._latest] = _Cell(self._latest, parent, self._cell_label())
            self._numbers[_message_id(parent)] = self._latest
            if len(self._cells) > _CELLS:
                _, old = self._cells.popitem(last=False)
                self._numbers.pop(_message_id(old.parent), None)
        engine().output.begin_cell(self._latest)
        self.progress.cell_began(self._latest, time.monotonic())
        self._wake.set()

    def mark(self, bits: int) -> None:
        """What the cell that runs submits from here on is watched so (`nbray.debugging.marks`)."""
        with self._lock:
            cell = self._cells.pop(self._latest)
            self.progress.forget(self._latest)
            self._latest = cell.number = self._latest | bits
            self._cells[self._latest] = cell
            self._numbers[_message_id(cell.parent)] = self._latest
        engine().output.begin_cell(self._latest)
        self.progress.cell_began(self._latest, time.monotonic())

    def after_cell(self, _result: object = None) -> None:
        """The cell ends: what has arrived is shown before its prompt returns."""
        self.settle(self._latest)

    def settle(self, number: int) -> None:
        """A cell has ended: nothing of what has arrived for it is held back any more."""
        cell = self._cells.get(number)
        if cell is None:
            return
        with contextlib.suppress(KeyboardInterrupt):  # there is no cell any more to interrupt
            engine().output.settle()
            self.progress.cell_ended(cell.number)  # may wait for the sockets: not under the lock
            with self._lock:
                self._deliver()
                self._flush(cell, time.monotonic(), final=True)
        self._wake.set()

    @contextlib.contextmanager
    def for_itself(self) -> Iterator[None]:
        """What the notebook submits meanwhile belongs to no cell."""
        engine().output.begin_cell(OF_NO_CELL)
        try:
            yield
        finally:
            engine().output.begin_cell(self._latest)

    def label(self, number: int) -> str:
        """The cell of that number, as ``In [3]``; "" when it is not known any more."""
        cell = self._cells.get(number)
        return cell.label if cell is not None else ""

    @property
    def is_in_notebook(self) -> bool:
        """Whether what arrives late finds its cell; a terminal has none."""
        return self._kernel is not None

    def number_here(self) -> int:
        """The number of the cell that this thread works for, as far as the kernel knows it."""
        parent = self.current_cell()
        return self._numbers.get(_message_id(parent), self._latest)

    def numbers(self) -> list[int]:
        """Those of the cells that are known, oldest first."""
        with self._lock:
            return list(self._cells)

    def number_of_cell(self) -> int:
        """That of the cell which runs now, or ran last."""
        return self._latest

    def record(self) -> None:
        """From now on remember what the tasks of the running cell show in it."""
        if (cell := self._cells.get(self._latest)) is not None:
            cell.recording = Recording()

    def recorded(self) -> Recording:
        """What has been shown since `record`; that ends the recording."""
        cell = self._cells.get(self._latest)
        if cell is None or cell.recording is None:
            return Recording()
        with self._lock:
            self._deliver()
            self._flush(cell, time.monotonic(), final=True, panel=False)
            recording, cell.recording = cell.recording, None
        return recording

    def leave_unmarked(self, task_id: bytes) -> None:
        """Show the output of this task without its name and process before each line."""
        self._plain.append(task_id)

    def current_cell(self) -> dict[str, Any]:
        """The request of the cell that runs now, or ran last; empty in a terminal."""
        parent: dict[str, Any] = {} if self._kernel is None else self._kernel.get_parent()
        return parent

    # --- output --------------------

    def __call__(self, message: OutputLines | OutputDisplay) -> None:
        if len(self._queue) < _QUEUED:
            self._queue.append(message)
        elif isinstance(message, OutputLines):
            lines = message.text.count("\n") + message.dropped
            self._queue.append(OutputLines(message.source, message.stream, "", lines))
        # At once if nobody else is at it, so that it stands before what the cell does with the
        # result. A cell shows so few lines that this costs whoever drives the sockets little.
        # A redirection may end with the next statement, so it is worth a short wait.
        patience = _REDIRECTED_S if self._captures() else 0.0
        if self._lock.acquire(timeout=patience) if patience else self._lock.acquire(blocking=False):
            try:
                self._deliver()
            finally:
                self._lock.release()
        self._wake.set()

    def close(self) -> None:
        """Show what is left and end the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=5.0)

    def _serve(self) -> None:
        while not self._closed:
            busy = self.progress.is_live() or self._has_more()
            self._wake.wait(_PANEL_S if busy else None)
            self._wake.clear()
            time.sleep(_TICK_S)
            try:
                self._tick()
            except Exception:
                logger.exception("The output of tasks could not be shown.")

    def _has_more(self) -> bool:
        with self._lock:
            return bool(self._queue or self._active)

    def _tick(self) -> None:
        now = time.monotonic()
        self.progress.ask()
        with self._lock:
            self._deliver()
            self._active.update(self.progress.cells())
            for number in list(self._active):
                cell = self._cells.get(number)
                if cell is None:
                    self.progress.forget(number)
                else:
                    try:
                        self._flush(cell, now, final=self._closed)
                    except Exception:  # those of the other cells are shown all the same
                        logger.exception("The output of %s could not be shown.", cell.label)
                if cell is None or not (cell.output.waits or cell.output.changed):
                    self._active.discard(number)

    def _deliver(self) -> None:
        """Sort what has arrived by cell."""
        now = time.monotonic()
        while self._queue:
            message = self._queue.popleft()
            origin = message.source
            cell = self._cells.get(origin.origin) or self._cells.get(self._latest)
            if cell is None:
                cell = _Cell(0, self.current_cell())
            marked = origin.task_id not in self._plain
            if (
                cell.number == self._latest
                and self._captures(message)
                and redirect(message, getattr(self._kernel, "shell", None), marked)
            ):
                if cell.recording is not None:
                    cell.recording.add_message(message)
                continue
            if isinstance(message, OutputDisplay):
                self._flush(cell, now, panel=False)
                self._publish_display(message, cell.parent)
                if cell.recording is not None:
                    cell.recording.add_message(message)
                continue
            source = Source(
                origin.task_id, origin.name, origin.pid, origin.log,
                plain=not marked,
            )  # fmt: skip
            cell.output.feed(source, message.stream, message.text, message.dropped, now)
            self._active.add(cell.number)
            self._flush(cell, now, final=cell.number == 0, panel=False)

    def _captures(self, message: OutputLines | OutputDisplay | None = None) -> bool:
        """Whether the running cell keeps what its tasks print, or this message, for itself."""
        if self._kernel is None:
            return False
        return isinstance(message, OutputDisplay) or is_redirected()

    def _flush(self, cell: _Cell, now: float, final: bool = False, panel: bool = True) -> None:
        if cell.output.waits or final:
            for stream, text in cell.output.take(now, final):
                content = {"name": stream, "text": text}
                self.publish("stream", content, cell.parent)
                if cell.recording is not None:
                    cell.recording.add("stream", content)
        if cell.number == self._latest and self._captures():
            cell.quiet = True  # whoever keeps the output of a cell wants to see nothing of it
        if not panel or cell.quiet:
            return
        if not final and now - cell.panel_time < _PANEL_S:
            return
        rows = self.progress.rows(cell.number, now)
        if rows is not None or cell.output.changed:
            cell.output.changed = False
            cell.panel.set(rows, cell.output.bars, cell.output.hidden, list(cell.output.logs))
            self._show_panel(cell, now)

    def _show_panel(self, cell: _Cell, now: float) -> None:
        content = cell.panel.bundle()
        cell.panel_time = now
        if content["text/plain"] == cell.panel_shown:
            return
        first, cell.panel_shown = not cell.panel_shown, content["text/plain"]
        if self._kernel is None or not cell.parent:
            self._print_panel(cell)
            return
        self.publish(
            "display_data" if first else "update_display_data",
            {
                "data": content,
                "metadata": {},
                "transient": {"display_id": f"nbray-{_message_id(cell.parent)}"},
            },
            cell.parent,
        )

    def _print_panel(self, cell: _Cell) -> None:
        """In a terminal: on one line that is rewritten, and in full once it is final."""
        if cell.panel.is_final:
            clear = "\r\x1b[K" if sys.stderr.isatty() and self._terminal_panel else ""
            sys.stderr.write(clear + cell.panel_shown + "\n")
            self._terminal_panel = ""
        elif sys.stderr.isatty():
            self._terminal_panel = cell.panel_shown.partition("\n")[0]
            sys.stderr.write("\r\x1b[K" + self._terminal_panel)
        sys.stderr.flush()

    def _publish_display(self, message: OutputDisplay, parent: dict[str, Any]) -> None:
        content = json.loads(message.content)
        if self._kernel is not None and parent:
            self.publish(message.kind, content, parent)
        elif "data" in content:
            self.publish("display_data", content, parent)

    def tell(self, number: int, text: str) -> None:
        """Show text in a cell, whether it runs or has ended; from any thread."""
        cell = self._cells.get(number) or self._cells.get(self._latest)
        content = {"name": "stdout", "text": text}
        self.publish("stream", content, cell.parent if cell is not None else {})

    def warn(self, text: str, cell: int = 0) -> None:
        """Show a warning of the cluster, whichever thread brings it.

        It stands in the cell that submitted what it is about; of no cell's work, in the last one.
        """
        known = self._cells.get(cell) or self._cells.get(self._latest)
        parent = known.parent if known is not None else {}
        self.publish("stream", {"name": "stderr", "text": f"{text}\n"}, parent)

    def publish(self, kind: str, content: dict[str, Any], cell: dict[str, Any]) -> None:
        """Send an IOPub message that belongs to ``cell``; in a terminal, print its text."""
        if self._kernel is None or not cell:
            if kind == "stream":
                text = content["text"]
            else:
                text = content["data"].get("text/plain", "") + "\n"
            print(text, end="", file=sys.stderr if content.get("name") == "stderr" else sys.stdout)
            return
        sys.stdout.flush()  # what the cell itself has printed stands before it
        try:
            self._send(self._kernel, kind, content, cell)
        except UnicodeEncodeError:  # half of a character, as cut text has
            self._send(self._kernel, kind, sendable(content), cell)

    @staticmethod
    def _send(kernel: Any, kind: str, content: dict[str, Any], cell: dict[str, Any]) -> None:
        kernel.session.send(
            kernel.iopub_socket,
            kind,
            content,
            parent=cell,
            ident=f"kernel.{kernel.ident}.{kind}".encode(),
        )


def _message_id(parent: dict[str, Any]) -> str:
    return str(parent.get("header", {}).get("msg_id", ""))
