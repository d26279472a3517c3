"""What this kernel has submitted to Ray, and how far that is.

A table of the calls that went through `calls`, or that the notebook itself made: refs, name and
cell. A ref is held while its task has not ended, since who holds none can neither wait for it nor
cancel it. A thread looks at all of them at once, as long as there are some.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.experimental import get_local_object_locations

from nbray.common.ids import TaskID
from nbray.exceptions import NbrayError
from nbray.notebook import FunctionCounts, ObjectRef, RefFacts

from . import rows
from .errors import translated
from .gate import Gate
from .refusals import refused

_TICK_S = 0.1
_RUNNING_S = 1.0
_SETTLES_S = 0.1
_MOST_ENDED = 20_000
_MOST_ROWS = 10_000
_SMALL = 100 * 1024
"""Ray keeps smaller results in the memory of who submitted the task."""


@dataclass(eq=False)
class _Task:
    refs: list[Any]
    name: str
    cell: int
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Ended:
    cell: int
    failed: bool


class Submitted:
    """The tasks of this kernel. `nbray.notebook.Tasks` is met by it."""

    def __init__(self, gate: Gate, cell_here: Callable[[], int]) -> None:
        """``cell_here`` says for which cell the calling thread submits."""
        self._gate = gate
        self._cell_here = cell_here
        self._lock = threading.Lock()
        self._live: dict[str, _Task] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._counts: dict[tuple[int, str], FunctionCounts] = {}
        self._waiting: list[tuple[set[Any], Callable[[], None]]] = []
        self._wake = threading.Event()
        self._asked = self._looked = 0.0
        self._thread: threading.Thread | None = None
        self._cells: OrderedDict[str, int] = OrderedDict()

    # --- what was submitted --------------------

    def submitted(self, made: Any, name: str) -> None:
        """A call has returned ``made``: a ref, several, or a stream of them."""
        refs = made if isinstance(made, list) else [made]
        if not refs or not isinstance(refs[0], ray.ObjectRef):
            return
        task, cell = refs[0].task_id().hex(), self._cell_here()
        with self._lock:
            if task in self._live:
                return
            self._live[task] = _Task(list(refs), name, cell)
            self._cells[task] = cell
            while len(self._cells) > _MOST_ENDED:
                self._cells.popitem(last=False)
            row = self._counts.setdefault((cell, name), FunctionCounts(cell, name))
            row.submitted += 1
            row.unfinished += 1
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="nbray-ray-tasks", daemon=True
                )
                self._thread.start()
        self._wake.set()

    def cell_of(self, task: str) -> int | None:
        """The cell that submitted a task; None for one that did not go this way."""
        return self._cells.get(task)

    def forget(self) -> None:
        """The cluster has been left."""
        with self._lock:
            self._live.clear()
            self._ended.clear()
            self._waiting.clear()
            self._counts.clear()

    # --- how far it is --------------------

    def counts(self, then: Callable[[list[FunctionCounts]], None]) -> bool:
        """See `nbray.notebook.Tasks`."""
        self._asked = time.monotonic()
        if not self._gate.through(lambda: self._sweep() or True, False):
            return False
        with self._lock:
            found = [row.copy() for row in self._counts.values()]
        then(found)
        return True

    def unfinished(self, cell: int | None = None) -> list[TaskID]:
        """See `nbray.notebook.Tasks`."""
        self._gate.through(self._sweep, False)
        with self._lock:
            return [
                task.refs[0].task_id()
                for task in self._live.values()
                if cell is None or task.cell == cell
            ]

    def interrupt(self, tasks: Iterable[TaskID], *, force: bool = False) -> None:
        """See `nbray.notebook.Tasks`. Ray cannot end a method that runs in an actor's thread."""
        with self._lock:
            live = [self._live.get(task.hex()) for task in tasks]
        refs = [found.refs[0] for found in live if found is not None]
        # In a thread of its own: it waits, and Ray may be what calls here, of the end of another.
        threading.Thread(
            target=self._gate.through, args=(lambda: _cancel(refs, force), None),
            name="nbray-ray-cancel", daemon=True,
        ).start()  # fmt: skip

    def when_ended(self, refs: Sequence[ObjectRef], then: Callable[[], None]) -> None:
        """See `nbray.notebook.Tasks`."""
        with self._lock:
            self._waiting.append((set(refs), then))
        self._wake.set()

    def profile(self, cell: int, seconds: float, memory: bool) -> list[Any]:
        """See `nbray.notebook.Tasks`."""
        raise refused("%nbray profile")

    def describe(self, ref: ObjectRef) -> RefFacts:
        """See `nbray.notebook.Tasks`."""
        task = ref.task_id().hex()
        cell = self._cells.get(task, 0)
        lost = RefFacts("unknown", origin=cell)
        return self._gate.through(lambda: self._facts(ref, task, cell), lost)

    def _facts(self, ref: ObjectRef, task: str, cell: int) -> RefFacts:
        if not _ready([ref]):
            return RefFacts("pending", origin=cell)
        with self._lock:
            ended = self._ended.get(task)
        found = _place(ref)
        size, nodes = found.get("object_size"), found.get("node_ids") or []
        small = bool(found) and not nodes and (size is None or size <= _SMALL)
        failed, kind = (ended is not None and ended.failed), ""
        if small:
            failed, kind = _looked_at(ref)
        ids = tuple(bytes.fromhex(node) for node in nodes)
        return RefFacts("failed" if failed else "ready", size, small, ids, kind, cell)

    def future(self, ref: ObjectRef) -> Future[Any]:
        """See `nbray.notebook.Tasks`."""
        mine: Future[Any] = Future()

        def ended(theirs: Future[Any]) -> None:
            error = theirs.exception()
            if error is None:
                mine.set_result(theirs.result())
            else:
                mine.set_exception(translated(error))

        ref.future().add_done_callback(ended)
        return mine

    # --- the thread --------------------

    def _serve(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._gate.through(self._sweep, False):
                time.sleep(_TICK_S)

    def _sweep(self) -> bool:
        """Look at all that has not ended; whether there is some left."""
        with self._lock:
            live = dict(self._live)
            waiting = list(self._waiting)
        first = {task.refs[0]: name for name, task in live.items()}
        others = {ref for refs, _ in waiting for ref in refs} - first.keys()
        done = set(_ready([*first, *others]))
        for ref in done & first.keys():
            self._end(first[ref], live[first[ref]])
        called = []
        with self._lock:
            for entry in self._waiting:
                entry[0].difference_update(done)
                if not entry[0]:
                    called.append(entry)
            self._waiting = [entry for entry in self._waiting if entry[0]]
            left = bool(self._live or self._waiting)
        for _, then in called:
            then()
        self._look_for_running()
        return left

    def _end(self, name: str, task: _Task) -> None:
        outcome = _outcome(task.refs[0])
        now = time.monotonic()
        with self._lock:
            if self._live.pop(name, None) is None:
                return
            self._ended[name] = _Ended(task.cell, outcome != "done")
            while len(self._ended) > _MOST_ENDED:
                self._ended.popitem(last=False)
            row = self._counts.get((task.cell, task.name))
            if row is None:
                return
            row.unfinished -= 1
            row.ended = now
            row.running = min(row.running, row.unfinished)
            setattr(row, outcome, getattr(row, outcome) + 1)

    def _look_for_running(self) -> None:
        """Ask Ray, at most once a second and while somebody looks, which tasks run."""
        now = time.monotonic()
        if not self._live or now - self._asked > 2 or now - self._looked < _RUNNING_S:
            return
        self._looked = now
        try:
            running = rows.list_tasks(
                limit=_MOST_ROWS, timeout=2, filters=[("state", "=", "RUNNING")],
                raise_on_missing_output=False,
            )  # fmt: skip
        except NbrayError:  # its dashboard is away, or takes no more questions
            return
        with self._lock:
            for row in self._counts.values():
                row.running = 0
            for found in running:
                task = self._live.get(found.task_id)
                if task is not None:
                    self._counts[task.cell, task.name].running += 1


def _cancel(refs: Sequence[Any], force: bool) -> None:
    """Cancel those that have not ended."""
    for ref in _go_on(refs):
        try:
            ray.cancel(ref, force=force)
        except (ValueError, TypeError):  # force is not for actors
            with contextlib.suppress(ValueError, TypeError):
                ray.cancel(ref)


def _go_on(refs: Sequence[Any]) -> list[Any]:
    """Those whose tasks have not ended, nor do so within `_SETTLES_S`.

    Ray ends the process that cancels a task at the moment in which it ends by itself, as the other
    calls of a map often do: "Tried to complete task that was not pending".
    """
    if not refs:
        return []
    _, left = ray.wait(list(refs), num_returns=len(refs), timeout=_SETTLES_S, fetch_local=False)
    return list(left)


def _ready(refs: Sequence[Any]) -> list[Any]:
    if not refs:
        return []
    ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0, fetch_local=False)
    return list(ready)


def _place(ref: Any) -> dict[str, Any]:
    """Size and nodes of a value; empty where Ray does not say: of a driver far away."""
    if ray.util.client.ray.is_connected():
        return {}
    found: dict[str, Any] = get_local_object_locations([ref]).get(ref, {})
    return found


def _outcome(ref: Any) -> str:
    """``done``, ``failed`` or ``cancelled``, of a task that has ended; errors are small."""
    found = _place(ref)
    if not found:
        row = rows.task(ref.task_id().hex())
        if row is None or row.state != "FAILED":
            return "done"
        return "cancelled" if row.error_type == "TASK_CANCELLED" else "failed"
    if found.get("node_ids") or (found.get("object_size") or 0) > _SMALL:
        return "done"
    try:
        ray.get(ref, timeout=1)
    except ray.exceptions.TaskCancelledError:
        return "cancelled"
    except ray.exceptions.GetTimeoutError:
        return "done"
    except Exception:  # the user's
        return "failed"
    return "done"


def _looked_at(ref: Any) -> tuple[bool, str]:
    """Whether a small value, which is in this process, is an error; what it is in a word."""
    try:
        value = ray.get(ref, timeout=1)
    except ray.exceptions.GetTimeoutError:
        return False, ""
    except Exception:  # the user's
        return True, ""
    return False, type(value).__name__
