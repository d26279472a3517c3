"""What tasks print goes to the cell that submitted them, also when it arrives late.

Before each cell the router takes a mark: the number of the task id that would be next. Task
ids of one process are a prefix, a counter and the job (24 bytes), so a task belongs to the
last cell whose mark is not above its number, and submitting costs nothing extra. Tasks that
other tasks submitted have another prefix: their output goes to the cell that runs now, or ran
last. The runtime calls the router on a background thread; only the table of marks is shared,
and the messages leave through ipykernel's own IO thread.
"""

from __future__ import annotations

import bisect
import sys
import threading
from collections import OrderedDict, deque
from typing import Any, Protocol

import nbray

CELL_LIMIT_BYTES = 1_000_000
"""How much output of its tasks one cell shows."""
_MARKS = 1000


class Lines(Protocol):
    """What the runtime hands over: text that a task printed, and where it comes from."""

    stream: str
    text: str
    pid: int
    node_id: bytes
    task_id: bytes
    name: str


class OutputRouter:
    """Sends output to cells. Callable, as `nbray.util.output.set_output_handler` wants it."""

    def __init__(self, kernel: Any | None) -> None:
        """``kernel`` is ipykernel's kernel, or None in a terminal."""
        self._kernel = kernel
        self._lock = threading.Lock()
        self._prefix = b""
        self._numbers: list[int] = []
        self._cells: list[dict[str, Any]] = []
        self._plain: deque[bytes] = deque(maxlen=_MARKS)
        self._shown: OrderedDict[str, int] = OrderedDict()

    def mark(self) -> None:
        """The tasks that are submitted from here on belong to the cell that runs now."""
        if self._kernel is None or not nbray.is_initialized():
            return
        prefix, number = _order(nbray.put(None).task_id().binary())
        with self._lock:
            if prefix != self._prefix:
                self._prefix, self._numbers, self._cells = prefix, [], []
            self._numbers.append(number)
            self._cells.append(self._kernel.get_parent())
            del self._numbers[:-_MARKS], self._cells[:-_MARKS]

    def before_cell(self, _info: object) -> None:
        """IPython calls this before each cell."""
        self.mark()

    def leave_unmarked(self, task_id: bytes) -> None:
        """Show the output of this task without its name and process before each line."""
        self._plain.append(task_id)

    def current_cell(self) -> dict[str, Any]:
        """The request of the cell that runs now, or ran last; empty in a terminal."""
        parent: dict[str, Any] = {} if self._kernel is None else self._kernel.get_parent()
        return parent

    def __call__(self, lines: Lines) -> None:
        cell = self._cell_of(lines.task_id)
        text = lines.text
        if lines.task_id not in self._plain:
            text = text if text.endswith("\n") else text + "\n"
            who = f"({lines.name} pid={lines.pid}) " if lines.name else f"(pid={lines.pid}) "
            text = "".join(who + line for line in text.splitlines(keepends=True))
        text = self._within_limit(cell, text)
        if text:
            self.publish("stream", {"name": lines.stream, "text": text}, cell)

    def publish(self, kind: str, content: dict[str, Any], cell: dict[str, Any]) -> None:
        """Send an IOPub message that belongs to ``cell``; in a terminal, print its text."""
        if self._kernel is None or not cell:
            text = content["text"] if kind == "stream" else content["data"]["text/plain"] + "\n"
            print(text, end="", file=sys.stderr if content.get("name") == "stderr" else sys.stdout)
            return
        self._kernel.session.send(
            self._kernel.iopub_socket,
            kind,
            content,
            parent=cell,
            ident=f"kernel.{self._kernel.ident}.{kind}".encode(),
        )

    def _cell_of(self, task_id: bytes) -> dict[str, Any]:
        prefix, number = _order(task_id)
        with self._lock:
            place = bisect.bisect_right(self._numbers, number) - 1
            if prefix == self._prefix and place >= 0:
                return self._cells[place]
        return self.current_cell()

    def _within_limit(self, cell: dict[str, Any], text: str) -> str:
        """``text``, or what of it the cell still shows."""
        key = str(cell.get("header", {}).get("msg_id", ""))
        before = self._shown.get(key, 0)
        self._shown[key] = before + len(text)
        if len(self._shown) > _MARKS:
            self._shown.popitem(last=False)
        if not key or before + len(text) <= CELL_LIMIT_BYTES:
            return text
        if before >= CELL_LIMIT_BYTES:
            return ""
        return (
            text[: CELL_LIMIT_BYTES - before]
            + f"\n... more than {CELL_LIMIT_BYTES:,} characters from this cell's tasks. The rest "
            "is in the worker's log in the session folder.\n"
        )


def _order(task_id: bytes) -> tuple[bytes, int]:
    """Who made a task id, and its number among those."""
    return task_id[:12], int.from_bytes(task_id[12:20], "little")
