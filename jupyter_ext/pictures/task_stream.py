"""The task stream of a cell: what ran when on which worker, as a picture that needs no script.

Pure: rows of the state API come in, a `Stream` is worked out, and it says how it looks as text and
as HTML around a static SVG. A row of the picture is a worker process; where a worker ran several
calls at once (an actor with threads or coroutines), it has as many rows as it needs. All is
bounded: at most `SPAN_LIMIT` spans (what failed or runs first, then the longest) in `LANE_LIMIT`
rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nbray.common.text import one_line
from nbray.notebook import TaskState

from . import theme
from .tables import count

SPAN_LIMIT = 1500
LANE_LIMIT = 40
_ROW = 18
_AXIS = 20
_TEXT_WIDTH = 60
_LEGEND = 12
_STEPS = (1.0, 2.0, 5.0)
_CANCELLED = "CANCELLED"
COLOURS = (
    "#4c8dd6", "#dd8f2e", "#3fa66b", "#b07cc6", "#c9b037", "#4fb3bf", "#d0709a", "#8c8c5a",
)  # fmt: skip
"""Told apart on dark and on light ground; red is kept for what failed."""


@dataclass(frozen=True)
class Span:
    """One task in the picture; times in seconds after the first began."""

    name: str
    start: float
    end: float
    state: str
    worker: str
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self.state == "FAILED"

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled while it ran."""
        return self.state == _CANCELLED

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.state == "RUNNING"

    def words(self) -> str:
        """What stands beside the pointer."""
        how = "running for" if self.running else "failed after" if self.failed else "took"
        if self.cancelled:
            how = "cancelled after"
        error = f", {self.error}" if self.failed and self.error else ""
        return f"{self.name}: {how} {seconds(self.end - self.start)}{error}, {self.worker}"


@dataclass(frozen=True)
class Stream:
    """The tasks of a cell, ready to be drawn.

    Attributes:
        label: the cell, as ``In [3]``.
        lanes: a label and the spans of each row, none of which overlap.
        totals: of each function: how many ended or run, how many failed, seconds altogether.
        waiting: how many have not begun.
        known: how many attempts the cluster remembers, drawn or not.
        submitted: how many tasks the cell has submitted.
        workers: how many workers there were.
    """

    label: str
    lanes: Sequence[tuple[str, Sequence[Span]]]
    totals: dict[str, tuple[int, int, float]]
    waiting: int = 0
    known: int = 0
    submitted: int = 0
    workers: int = 0

    @property
    def length(self) -> float:
        """Seconds from the first start to the last end."""
        return max((span.end for _, spans in self.lanes for span in spans), default=0.0)

    @property
    def spans(self) -> int:
        """How many are drawn."""
        return sum(len(spans) for _, spans in self.lanes)

    def colour(self, name: str) -> str:
        """The colour of a function."""
        return COLOURS[list(self.totals).index(name) % len(COLOURS)]

    # --- as text --------------------

    def __repr__(self) -> str:
        if not self.lanes:
            return self._nothing()
        width = max(len(label) for label, _ in self.lanes)
        lines = [self._title()]
        for label, spans in self.lanes:
            cells = [" "] * _TEXT_WIDTH
            for span in spans:
                first = int(span.start / (self.length or 1.0) * (_TEXT_WIDTH - 1))
                last = int(span.end / (self.length or 1.0) * (_TEXT_WIDTH - 1))
                mark = "x" if span.failed else "▒" if span.running else "█"
                mark = "░" if span.cancelled else mark
                for place in range(first, last + 1):
                    cells[place] = mark if cells[place] != "x" else "x"
            lines.append(f"{one_line(label):<{width}} |{''.join(cells)}|")
        end = seconds(self.length)
        lines.append(f"{'':<{width}}  0 s{end:>{_TEXT_WIDTH - 3}}")
        lines += [f"  {one_line(name)}: {words}" for name, words in self._legend()]
        return "\n".join(lines + self._notes())

    def _nothing(self) -> str:
        waits = f": {count(self.waiting, 'task')} wait" if self.waiting else ""
        return f"No task of {self.label or 'this notebook'} has run yet{waits}."

    def _title(self) -> str:
        return f"Tasks of {self.label}, {count(self.workers, 'worker')}"

    def _legend(self) -> list[tuple[str, str]]:
        legend = []
        for name, (number, failed, total) in list(self.totals.items())[:_LEGEND]:
            words = f"{count(number, 'task')}, {seconds(total)}"
            if number > 1:
                words += f", {seconds(total / number)} each"
            legend.append((name, words + (f", {failed:,} failed" if failed else "")))
        if len(self.totals) > _LEGEND:
            legend.append(("others", count(len(self.totals) - _LEGEND, "function")))
        return legend

    def _notes(self) -> list[str]:
        notes = []
        if self.waiting:
            notes.append(f"{self.waiting:,} more have not begun.")
        if self.spans < self.known:
            drawn = f"{self.spans:,} of {self.known:,} are drawn"
            notes.append(f"{drawn}: what failed or runs, then the longest.")
        if (hidden := self.workers - sum(bool(label) for label, _ in self.lanes)) > 0:
            notes.append(f"{count(hidden, 'worker')} more are not drawn.")
        if self.known + self.waiting < self.submitted:
            notes.append(
                f"Of {self.submitted:,} tasks, the cluster remembers {self.known + self.waiting:,}."
            )
        return notes

    # --- as HTML --------------------

    def _repr_html_(self) -> str:
        if not self.lanes:
            return str(theme.card(str(theme.muted(self._nothing())), "stream"))
        title = f"<b>{theme.escape(self._title())}</b>"
        labels = "".join(
            f'<div style="height:{_ROW}px;white-space:nowrap">{theme.muted(label)}</div>'
            for label, _ in self.lanes
        )
        legend = "".join(
            '<span style="white-space:nowrap"><span style="display:inline-block;width:10px;'
            f"height:10px;border-radius:2px;margin-right:6px;background:"
            f'{self.colour(name) if name in self.totals else theme.TRACK}"></span>'
            f"{theme.escape(name)} {theme.muted(words)}</span>"
            for name, words in self._legend()
        )
        notes = "".join(f"<div>{theme.muted(note)}</div>" for note in self._notes())
        body = (
            f"{title}"
            '<div style="display:flex;gap:10px;width:840px;max-width:100%;margin:4px 0">'
            f'<div style="line-height:{_ROW}px;font-size:11px">{labels}</div>'
            f'<div style="flex:1;min-width:0">{self._svg()}</div></div>'
            f'<div style="display:flex;flex-wrap:wrap;gap:0 20px">{legend}</div>{notes}'
        )
        return str(theme.card(body, "stream"))

    def _svg(self) -> str:
        length = self.length or 1.0
        height = _ROW * len(self.lanes)
        parts = []
        for tick in ticks(self.length):
            x = f"{100 * tick / length:.2f}%"
            anchor = "start" if not tick else "end" if tick > 0.94 * length else "middle"
            parts.append(
                f'<line x1="{x}" x2="{x}" y1="0" y2="{height}" stroke="currentColor" '
                f'stroke-opacity=".15"/><text x="{x}" y="{height + 14}" text-anchor="{anchor}" '
                f'font-size="11" fill="currentColor" fill-opacity=".65">{tick:g} s</text>'
            )
        for row, (_, spans) in enumerate(self.lanes):
            for span in spans:
                fill = theme.BAD if span.failed else self.colour(span.name)
                fill = theme.MUTED if span.cancelled else fill
                soft = ' fill-opacity=".5"' if span.running else ""
                wide = max(100 * (span.end - span.start) / length, 0.15)
                parts.append(
                    f'<rect x="{min(100 * span.start / length, 99.85):.2f}%" '
                    f'y="{row * _ROW + 2}" width="{wide:.2f}%" height="{_ROW - 4}" rx="2" '
                    f'style="fill:{fill}"{soft}><title>{theme.escape(span.words())}</title></rect>'
                )
        return (
            f'<svg width="100%" height="{height + _AXIS}" role="img" style="display:block;'
            f'overflow:visible"><title>{theme.escape(self._title())}</title>{"".join(parts)}</svg>'
        )


def stream(label: str, rows: Iterable[TaskState], now_ms: float, submitted: int = 0) -> Stream:
    """What is known of a cell's tasks as a picture.

    Args:
        label: the cell.
        rows: its tasks with details.
        now_ms: the time, where what runs ends in the picture.
        submitted: how many tasks it submitted, as far as that is known.
    """
    rows = list(rows)
    begun = [row for row in rows if row.start_time_ms is not None]
    start = min((row.start_time_ms or 0.0 for row in begun), default=0.0)
    nodes = {row.node_id for row in begun}
    totals: dict[str, tuple[int, int, float]] = {}
    spans = []
    for row in sorted(begun, key=lambda row: row.start_time_ms or 0.0):
        first = (row.start_time_ms or 0.0) - start
        last = max(first, (row.end_time_ms or now_ms) - start)
        name = row.name or row.func_or_class_name
        where = f"{(row.node_id or '')[:6]} " if len(nodes) > 1 else ""
        state = "RUNNING" if row.end_time_ms is None else row.state
        if row.error_type == "TASK_CANCELLED":
            state = _CANCELLED
        worker = f"{where}pid {row.worker_pid or '?'}"
        spans.append(Span(name, first / 1e3, last / 1e3, state, worker, row.error_type or ""))
        number, failed, total = totals.get(name, (0, 0, 0.0))
        totals[name] = (number + 1, failed + (state == "FAILED"), total + (last - first) / 1e3)
    workers = len({span.worker for span in spans})
    return Stream(
        label, lanes(sample(spans)), totals, len(rows) - len(begun), len(begun), submitted, workers
    )


def sample(spans: Sequence[Span], limit: int = SPAN_LIMIT) -> list[Span]:
    """At most ``limit`` of them in their order: what failed or runs first, then the longest."""
    if len(spans) <= limit:
        return list(spans)
    order = sorted(
        range(len(spans)),
        key=lambda i: (spans[i].state == "FINISHED", spans[i].start - spans[i].end),
    )
    return [spans[i] for i in sorted(order[:limit])]


def lanes(spans: Iterable[Span], limit: int = LANE_LIMIT) -> list[tuple[str, list[Span]]]:
    """Rows for spans that are sorted by their start: those of a row do not overlap.

    The rows of a worker stand together; of more than ``limit`` the first are taken.
    """
    workers: dict[str, list[list[Span]]] = {}
    for span in spans:
        rows = workers.setdefault(span.worker, [])
        free = next((row for row in rows if row[-1].end <= span.start), None)
        if free is None:
            rows.append([span])
        else:
            free.append(span)
    found = [
        (worker if not number else "", row)
        for worker in sorted(workers, key=lambda worker: (len(worker), worker))
        for number, row in enumerate(workers[worker])
    ]
    return found[:limit]


def ticks(length: float) -> list[float]:
    """Round seconds for an axis: three to seven of them."""
    if length <= 0:
        return [0.0]
    power = 1e-6
    while power * 10 <= length / 4:
        power *= 10
    step = max(power * factor for factor in _STEPS if power * factor <= length / 3)
    return [round(number * step, 9) for number in range(int(length / step) + 1)]


def seconds(length: float) -> str:
    """A time as people read it: ``12 ms``, ``3.4 s``, ``2 min 5 s``."""
    if length < 1:
        return f"{length * 1e3:.3g} ms"
    if length < 60:
        return f"{length:.3g} s"
    minutes, rest = divmod(round(length), 60)
    return f"{minutes:,} min {rest} s"
