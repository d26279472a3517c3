"""The keeper: a kernel without a notebook, which runs detached cells and keeps what they make.

It is a driver of its own, so that the cells' tasks, output and values hang on it and on no
notebook. One thread takes orders, sees which cells have ended, and stores what has changed; the
router's thread brings output. No code of a user's runs here: values are copied, and results
pickled, by tasks in workers.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nbray import cloudpickle
from nbray.exceptions import (
    LocalRayletDiedError,
    NbrayError,
    ObjectLostError,
    TaskCancelledError,
)
from nbray.notebook import ActorHandle, ObjectRef, engine

from ..cell.local_modules import Placed
from ..cell.run import Patience, told_changes
from ..cell.sending import ReadyCell
from ..cell.shipping import Shipped
from ..cell.spread import OverElements, SpreadRun
from ..cell.target import Order as CellOrder
from ..cell.target import Submitted
from ..cell.values import Packed
from ..messages import LAST, DriverPlace, Summary
from ..output.router import OF_NO_CELL
from ..worker import keeping
from . import space
from .errors import pickled_error
from .orders import Drop, HandOver, Loose, Stop, TakeBack, Values, Wait, own_setup, refs_of
from .pages import Pages, RecordingRouter
from .record import Limits, Record
from .witness import Witness

logger = logging.getLogger(__name__)

_NO_NAME = re.compile(r"\W")
_TICK_S = 0.2
_SAVE_S = 0.5
_LINGER_S = 0.5
_TIES_S = 2.0
_IDLE_S = 30.0


@dataclass
class _Kept:
    """A cell that is kept here.

    Attributes:
        order: as it was handed over; None when it has ended.
        question: who waits for it to be handed over.
        copies: the values that are being copied for it.
        sent: its tasks, while they run.
        small: the results whose bytes are being made, and the ref of these.
        columns: its results that lie in the store, by name.
        parts: what is to be stored beside its row.
        page: its number at the router.
        tied: the job with which it ends; "" when it is detached.
        returned: all that it returned, as long as it is tied, and who waits for that.
        unwanted: whether it is forgotten as soon as it has ended.
        end_state: what it will be when all is stored, and since when it is that.
    """

    row: space.Row
    record: Record
    limits: Limits
    place: DriverPlace | None
    order: HandOver | None
    question: int = 0
    copies: list[ObjectRef] = field(default_factory=list)
    sent: Submitted | None = None
    small: list[str] = field(default_factory=list)
    small_bytes: ObjectRef | None = None
    columns: dict[str, list[ObjectRef]] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    page: int = 0
    tied: str = ""
    returned: list[ObjectRef] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    unwanted: bool = False
    end_state: str = ""
    end_time: float = 0.0
    told: int = -1
    saved: float = 0.0


class Keeper:
    """All detached cells of one namespace."""

    def __init__(self, door: ActorHandle, name: str, actor_id: str) -> None:
        self._door = door
        self._me = (name, actor_id)
        self._lock = threading.Lock()
        self._cells: dict[str, _Kept] = {}
        self._ids: dict[str, str] = {}
        self._pages = Pages()
        self._router = RecordingRouter(self._pages, self._take)
        self._witness = Witness()
        self._busy = self._looked = time.monotonic()
        api = engine().api
        self._same = api.remote(num_cpus=0)(keeping.same)
        self._one_by_one = api.remote(num_cpus=0)(keeping.one_by_one)
        self._as_bytes = api.remote(num_cpus=0)(keeping.as_bytes)

    def serve(self) -> None:
        """Do what is asked, until there is nothing to keep and nobody asks."""
        engine().output.listen(self._router)
        engine().asides.listen(self._witness.take)
        engine().output.begin_cell(OF_NO_CELL)
        orders = self._door.take.remote()
        while True:
            ready, _ = engine().api.wait([orders], timeout=_TICK_S)
            if ready:
                self._busy = time.monotonic()
                for number, (unopened,) in engine().api.get(orders):
                    self._do(number, unopened)
                orders = self._door.take.remote()
            for kept in list(self._cells.values()):
                try:
                    self._look_after(kept)
                except Exception as error:  # one cell for itself: the others go on
                    self._give_up(kept, error)
            self._end_with_notebooks()
            if not self._cells and time.monotonic() - self._busy > _IDLE_S:
                if engine().api.get(self._door.leave.remote()):
                    return
                self._busy = time.monotonic()

    def _give_up(self, kept: _Kept, error: Exception) -> None:
        logger.exception("%s is given up.", kept.row.name)
        row = kept.row
        if kept.order is not None:
            self._answer(kept.question, None, f"it could not be handed over: {error}")
        row.notes.append(f"What keeps it failed: {type(error).__name__}: {error}")
        row.state, row.ended = "failed", time.time()
        kept.order = kept.sent = kept.small_bytes = None
        space.save(row, {"error": pickled_error(error)})

    # --- orders --------------------

    def _do(self, number: int, unopened: ObjectRef) -> None:
        try:
            match order := engine().api.get(unopened):
                case HandOver():
                    self._begin(number, order)
                    return
                case TakeBack(cell_id):
                    self._take_back(cell_id)
                    answer: object = None
                case Stop(name, force):
                    answer = self._stop(self._find(name), force)
                case Drop(name):
                    self._drop(self._find(name))
                    answer = None
                case Values(name):
                    answer = self._find(name).columns
                case Wait(name):
                    self._find(name).waiting.append(number)
                    self._tell_end(self._find(name))
                    return
                case Loose(name, new_name):
                    self._let_loose(self._find(name), new_name)
                    answer = None
                case _:
                    raise ValueError(f"{type(order).__name__} is no order.")
        except ValueError as error:
            self._answer(number, None, str(error))
        except ObjectLostError as error:  # whoever asked has gone
            self._answer(number, None, str(error))
        else:
            self._answer(number, answer)

    def _answer(self, number: int, value: object, error: str = "") -> None:
        self._door.answer.remote(number, value, error)

    def _find(self, name: str) -> _Kept:
        if name not in self._ids:
            raise ValueError(f"There is no detached cell {name!r}.")
        return self._cells[self._ids[name]]

    def _stop(self, kept: _Kept, force: bool) -> bool:
        """Whether there was something to stop."""
        if kept.sent is None or kept.sent.run is None or kept.row.is_over:
            return False
        kept.sent.run.cancel(force)
        return True

    def _let_loose(self, kept: _Kept, name: str) -> None:
        row = kept.row
        if kept.tied and not row.is_over:
            new = replace(row, name=name, tied=False)
            if not space.claim(new):
                raise ValueError(space.taken(name))
            old = row.name
            row.name, row.tied, kept.tied = name, False, ""
            self._ids[name] = self._ids.pop(old)
            space.drop_name(old)

    def _tell_end(self, kept: _Kept) -> None:
        """Answer those who wait for a cell's end."""
        if kept.row.is_over:
            for number in kept.waiting:
                self._answer(number, kept.returned)
            kept.waiting.clear()

    def _end_with_notebooks(self) -> None:
        """Cells that are tied to a notebook which has gone end, and nothing of them is kept."""
        tied = [kept for kept in self._cells.values() if kept.tied]
        if not tied or time.monotonic() - self._looked < _TIES_S:
            return
        self._looked = time.monotonic()
        try:
            jobs = engine().state.list_jobs()
        except LocalRayletDiedError:
            raise
        except (NbrayError, OSError) as error:  # a GCS that is away may come back: cells go on
            logger.warning("Which notebooks live is not known: %s", error)
            return
        alive = {job.job_id for job in jobs if job.status == "RUNNING"}
        for kept in tied:
            if kept.tied not in alive:
                if kept.row.is_over:
                    self._forget(kept)
                else:
                    self._stop(kept, force=False)

    def _take_back(self, cell_id: str) -> None:
        kept = self._cells.get(cell_id)
        if kept is None:
            return
        if kept.order is not None or kept.row.is_over:
            kept.order = None
            self._forget(kept)
        else:
            kept.unwanted = True
            self._stop(kept, force=False)

    def _drop(self, kept: _Kept) -> None:
        if not kept.row.is_over:
            raise ValueError(f"{kept.row.name} runs; stop it first.")
        self._forget(kept)

    def _forget(self, kept: _Kept) -> None:
        space.drop(kept.row)
        self._let_go(kept)

    # --- handed over --------------------

    def _begin(self, number: int, order: HandOver) -> None:
        row = space.Row(
            order.name, order.id, order.label, order.text.source, order.by, self._me,
            began=time.time(), tied=bool(order.tied),
        )  # fmt: skip
        in_store = sum(kept.row.in_store for kept in self._cells.values())
        if in_store >= order.limits.store_bytes:
            self._answer(
                number, None,
                f"results of detached cells take {in_store:,} bytes of the object store, and "
                f"kept_results allows {order.limits.store_bytes:,}. %nbray results lists them, "
                "%nbray results --drop NAME lets go of one",
            )  # fmt: skip
            return
        if not space.claim(row):
            self._answer(number, None, space.taken(order.name))
            return
        kept = _Kept(row, Record(order.limits), order.limits, order.place, order, number)
        kept.tied = order.tied
        with self._lock:
            self._cells[row.id] = kept
        self._ids[row.name] = row.id
        self._at(kept)
        kept.copies = [self._same.remote(ref) for ref in refs_of(order)]
        self._look_after(kept)

    def _at(self, kept: _Kept) -> None:
        """What is pickled from here on goes to where the cell's notebook stands."""
        place = kept.place
        engine().code.new_cell()
        engine().code.wrap(
            lambda target: Shipped(target) if place is None else Placed(place, Shipped(target))
        )

    def _submit(self, kept: _Kept, order: HandOver) -> None:
        copies = iter(kept.copies)
        arguments = [next(copies) for _ in order.arguments]
        parcel = replace(order.cell.parcel, refs=[next(copies) for _ in order.cell.parcel.refs])
        cell = replace(order.cell, parcel=parcel)
        setups = tuple(
            (setup.key, engine().api.put(own_setup(setup, copies))) for setup in order.setups
        )
        label = order.label if order.tied else f"{order.name} ({order.label})"
        ready = ReadyCell(label, order.text, cell, order.names, arguments, [], Packed(parcel))
        target = order.target
        self._pages.current = kept.row.id
        self._router.before_cell()
        kept.page = self._router.number_of_cell()
        self._at(kept)
        try:
            if order.elements is not None and isinstance(target, OverElements):
                count = order.elements[1]
                made = self._one_by_one.options(num_returns=count).remote(next(copies))
                target = target.over(made if count > 1 else [made])
            kept.sent = target.submit(CellOrder(ready, order.options, Patience(), setups))
        finally:
            self._router.after_cell()
            engine().output.begin_cell(OF_NO_CELL)
        run = kept.sent.run
        if run is None:
            return
        if not kept.sent.several:
            self._router.leave_unmarked(run.summary_ref.task_id().binary())
        elif isinstance(run, SpreadRun):
            run.watch(lambda _done: None)  # the first element that fails ends the others

    # --- what becomes of it --------------------

    def _look_after(self, kept: _Kept) -> None:
        if kept.order is not None and self._are_ready(kept.copies):
            self._handed_over(kept, kept.order)
        if kept.sent is not None and not kept.end_state:
            outcome: object = [] if kept.sent.run is None else kept.sent.run.outcome()
            if outcome is not None:
                self._has_ended(kept, kept.sent, outcome)
        if kept.small_bytes is not None and self._are_ready([kept.small_bytes]):
            self._have_bytes(kept, kept.small_bytes)
        self._save(kept)

    @staticmethod
    def _are_ready(refs: Sequence[ObjectRef]) -> bool:
        return not refs or len(
            engine().api.wait(list(refs), num_returns=len(refs), timeout=0)[0]
        ) == len(refs)

    def _handed_over(self, kept: _Kept, order: HandOver) -> None:
        kept.order = None
        failed = [ref for ref in kept.copies if engine().tasks.describe(ref).state == "failed"]
        problem = ""
        if failed:
            try:
                engine().api.get(failed[0])
            except Exception as error:  # that of an earlier cell, or its notebook has gone
                problem = f"a value that it reads could not be handed over: {error}"
        else:
            try:
                self._submit(kept, order)
            except (NbrayError, ValueError, TypeError) as error:
                problem = str(error)
        kept.copies = []
        if problem:
            self._forget(kept)
            self._answer(kept.question, None, problem)
            return
        kept.row.state = "running"
        space.save(kept.row, {})
        self._answer(kept.question, kept.row.id)

    def _has_ended(self, kept: _Kept, sent: Submitted, outcome: object) -> None:
        """Its tasks have ended. What they printed last may still be on its way."""
        engine().output.settle()
        self._router.settle(kept.page)
        kept.end_time = time.time()
        kept.end_state = "done"
        if isinstance(outcome, BaseException):
            if isinstance(sent.run, SpreadRun):
                outcome = sent.run.first_error() or outcome
                kept.row.notes += sent.run.where()
            was_stopped = isinstance(outcome, TaskCancelledError)
            kept.end_state = "cancelled" if was_stopped else "failed"
            kept.parts["error"] = pickled_error(outcome)
            return
        summaries: list[Summary] = outcome if isinstance(outcome, list) else []
        self._record_end(kept.record, sent, summaries)
        kept.parts["summary"] = cloudpickle.dumps([replace(s, displays=[]) for s in summaries])
        self._find_results(kept, sent, summaries)
        if kept.small:
            flat = [ref for name in kept.small for ref in kept.columns[name]]
            self._at(kept)
            kept.small_bytes = self._as_bytes.remote(kept.limits.value_bytes, *flat)

    def _record_end(self, record: Record, sent: Submitted, summaries: list[Summary]) -> None:
        with self._lock:
            for number, summary in enumerate(summaries):
                if sent.titles and summary.displays:
                    text = f"{sent.titles[number]}:\n"
                    record.take("stream", {"name": "stdout", "text": text})
                for bundle in summary.displays:
                    content = {"data": bundle, "metadata": {}, "transient": {}}
                    record.take("display_data", content)
            if told := told_changes(summaries):
                record.take("stream", {"name": "stdout", "text": told + "\n"})

    @staticmethod
    def _find_results(kept: _Kept, sent: Submitted, summaries: list[Summary]) -> None:
        """Its results by name.

        The values of its last line, with ``--map``, have the cell's own name; the values of the
        notebook that it has changed stand together under none.
        """
        kept.row.several = sent.several
        kinds: dict[str, str] = {}
        for place, assigned in enumerate(sent.ready.cell.assigns):
            name = _NO_NAME.sub("_", kept.row.name) if assigned == LAST else assigned
            if sent.several or name in summaries[0].types:
                kept.columns[name] = [column[place] for column in sent.columns]
                several = f"list of {len(sent.columns)}"
                kinds[name] = several if sent.several else summaries[0].types[name]
        if sent.changes is not None and summaries[0].brought:
            kept.columns[""] = [sent.changes]
            kinds[""] = ", ".join(summaries[0].brought)
        for name, refs in kept.columns.items():
            facts = [engine().tasks.describe(ref) for ref in refs]
            size = sum(fact.size or 0 for fact in facts)
            kept.row.results[name] = (kinds[name], size, "store")
            if all(fact.inline for fact in facts) and size <= kept.limits.value_bytes:
                kept.small.append(name)

    @staticmethod
    def _have_bytes(kept: _Kept, ref: ObjectRef) -> None:
        kept.small_bytes = None
        try:
            found = iter(engine().api.get(ref))
        except NbrayError as error:
            kept.row.notes.append(f"Its small results are in the store only: {error}")
            return
        for name in kept.small:
            pieces = [next(found) for _ in kept.columns[name]]
            if None not in pieces:
                kept.parts[f"value/{name}"] = cloudpickle.dumps(pieces)
                kind, size, _ = kept.row.results[name]
                kept.row.results[name] = (kind, size, "gcs")
                del kept.columns[name]

    # --- output --------------------

    def _take(self, cell_id: str, kind: str, content: dict[str, Any]) -> None:
        with self._lock:
            kept = self._cells.get(cell_id)
            if kept is not None:
                kept.record.take(kind, content)

    def _save(self, kept: _Kept) -> None:
        """Store what is new: not more often than twice a second, and at last when all is there."""
        row, now = kept.row, time.monotonic()
        if kept.order is not None or row.is_over or row.id not in self._cells:
            return
        last = (
            bool(kept.end_state) and kept.small_bytes is None
            and time.time() - kept.end_time >= _LINGER_S
        )  # fmt: skip
        if not last and (kept.told == kept.record.change or now - kept.saved < _SAVE_S):
            return
        with self._lock:
            changes = kept.record.changes()
            row.change, row.clears = kept.record.change, kept.record.clears
            row.index, row.size = kept.record.index(), kept.record.size
            row.left_out = kept.record.left_out
        written = {f"out/{number}": data for number, data in changes.written.items()}
        if last:
            if failures := self._witness.of(kept.page):
                written["failures"] = failures
            if kept.tied and kept.sent is not None and kept.sent.run is not None:
                changed = [] if kept.sent.changes is None else [kept.sent.changes]
                kept.returned = [kept.sent.run.summary_ref, *changed, *kept.sent.columns[0]]
            row.state, row.ended = kept.end_state, kept.end_time
            written.update(kept.parts)
            kept.parts.clear()
            kept.sent = None
        space.save(row, written, [f"out/{number}" for number in changes.gone])
        kept.told, kept.saved = row.change, now
        self._tell_end(kept)
        if last and kept.unwanted:
            self._forget(kept)
        elif last and not kept.columns and not kept.tied:  # all of it is in the GCS
            self._let_go(kept)

    def _let_go(self, kept: _Kept) -> None:
        with self._lock:
            del self._cells[kept.row.id]
        del self._ids[kept.row.name]
        self._busy = time.monotonic()
