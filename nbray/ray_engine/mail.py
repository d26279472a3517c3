"""The kernel's side of output: a thread that calls at the post office, and finds the cells."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import ray

from nbray.notebook import Listener, OutputDisplay, OutputLines, OutputSource

from . import rows
from .gate import Gate
from .origins import Origins, Seen
from .plain import print_plainly
from .post import Batch, Row

logger = logging.getLogger(__name__)

_WAIT_S = 1.0
_HELD_WAIT_S = 0.2
_ANSWER_S = 30.0
_SETTLE_S = 2.0
_HOLD_S = 5.0
_ASK_S = 0.3
_ASKED_AT_ONCE = 20


class Mail:
    """What tasks print and display. `nbray.notebook.Output` is met by it."""

    print_plainly = staticmethod(print_plainly)

    def __init__(self, gate: Gate, known: Callable[[str], int | None]) -> None:
        """``known`` has the cells of the tasks that the kernel has submitted itself."""
        self._gate = gate
        self._listener: Listener | None = None
        self._origins = Origins(known)
        self._office: Any = None
        self._lock = threading.Lock()
        self._held: deque[tuple[float, Row]] = deque()
        self._asked = 0.0

    # --- the port --------------------

    def listen(self, listener: Listener | None) -> None:
        """See `nbray.notebook.Output`."""
        self._listener = listener

    def begin_cell(self, number: int) -> None:
        """See `nbray.notebook.Output`."""
        self._origins.cell_began(number, time.time() * 1e3)

    def in_worker(self) -> bool:
        """This is the kernel's side."""
        return False

    def display(self, kind: str, content: dict[str, Any]) -> None:
        """For workers."""
        raise RuntimeError(f"{kind}: only a worker sends displays to its notebook")

    def warn(self, text: str) -> None:
        """Show a line about the cluster."""
        if self._listener is not None:
            self._listener.warn(text)

    def settle(self) -> None:
        """Deliver what has come to the post office so far."""
        office = self._office
        if office is None:
            return
        try:
            self._gate.through(lambda: self._fetch(office, 0.0, _SETTLE_S), False)
        except ray.exceptions.RayError:
            logger.info("The output of tasks is late: the post office does not answer.")

    def cell_here(self) -> int:
        """The cell for which the calling thread submits."""
        return self._listener.number_here() if self._listener is not None else 0

    # --- the cluster --------------------

    def open(self, office: Any, root: str) -> None:
        """The kernel is in a cluster, and this is its post office."""
        self._origins.joined(root)
        self._office = office
        threading.Thread(
            target=self._serve, args=(office,), name="nbray-ray-output", daemon=True
        ).start()

    def close(self) -> None:
        """The kernel leaves the cluster."""
        self._office = None
        self._held.clear()

    def _serve(self, office: Any) -> None:
        while self._office is office:
            wait = _HELD_WAIT_S if self._held else _WAIT_S
            try:
                if not self._gate.through(partial(self._fetch, office, wait, _ANSWER_S), False):
                    return
            except ray.exceptions.RayError:
                logger.info("The post office does not answer.", exc_info=True)
                time.sleep(_WAIT_S)
            except Exception:
                logger.exception("The output of tasks could not be shown.")
                time.sleep(_WAIT_S)

    def _fetch(self, office: Any, wait: float, timeout: float) -> bool:
        self._deliver(ray.get(office.take.remote(wait), timeout=timeout))
        return True

    def _deliver(self, batch: Batch) -> None:
        with self._lock:
            self._origins.born(batch.children)
            now = time.monotonic()
            self._held.extend((now, row) for row in batch.rows)
            self._ask(now)
            waiting, blocked = deque[tuple[float, Row]](), set[str]()
            while self._held:
                since, row = self._held.popleft()
                cell, _ = self._origins.find(row.task) if row.task else (0, "")
                late = now - since > _HOLD_S
                if row.task in blocked or (cell is None and not late):
                    blocked.add(row.task)
                    waiting.append((since, row))
                    continue
                self._show(row, cell or 0)
            self._held = waiting

    def _ask(self, now: float) -> None:
        """Ask Ray's table for the tasks that nobody knows, at most so often."""
        missing = {self._origins.find(row.task) for _, row in self._held if row.task}
        ids = [task for cell, task in missing if cell is None]
        if not ids or now - self._asked < _ASK_S:
            return
        self._asked = now
        found = {}
        for task in ids[:_ASKED_AT_ONCE]:
            row = rows.task(task)
            if row is not None:
                found[task] = Seen(row.parent_task_id or "", row.creation_time_ms or 0.0)
        self._origins.seen(found)

    def _show(self, row: Row, cell: int) -> None:
        source = OutputSource(
            bytes.fromhex(row.task), row.name, cell, bytes.fromhex(row.node), row.pid,
            f"%nbray logs {row.pid}",
        )  # fmt: skip
        message: OutputLines | OutputDisplay
        if row.kind in ("stdout", "stderr"):
            message = OutputLines(source, row.kind, row.text, row.dropped)
        else:
            message = OutputDisplay(source, row.kind, row.text.encode())
        if self._listener is None:
            print_plainly(message)
        else:
            self._listener(message)
