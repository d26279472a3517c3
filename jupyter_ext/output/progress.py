"""The progress of a cell's tasks, and the panel that shows it.

A bar appears by itself when the tasks of a cell have not ended after `AFTER_S` seconds: one for
each function, with how many are queued, running, done and failed, and a rate. It stays, and its
last state is final. `TaskProgress` knows the counts; `Panel` says how they look, as text and HTML.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from nbray.common.text import one_line
from nbray.notebook import FunctionCounts, engine

from ..pictures import theme
from .cell_output import LINE_LIMIT, bar

AFTER_S = 2.0
"""How long work goes on before its progress is shown."""


@dataclass(frozen=True)
class Row:
    """The tasks of one function of a cell."""

    name: str
    total: int
    done: int
    failed: int
    running: int
    seconds: float
    cancelled: int = 0

    @property
    def ended(self) -> int:
        """How many have ended, in whatever way."""
        return self.done + self.failed + self.cancelled

    @property
    def is_final(self) -> bool:
        """Whether all have ended."""
        return self.ended >= self.total

    def words(self) -> str:
        """The numbers, for people."""
        words = [f"{self.ended:,}/{self.total:,}"]
        if not self.is_final:
            queued = self.total - self.ended - self.running
            if self.running or not queued:
                words.append(f"{self.running:,} running")
            if queued:
                words.append(f"{queued:,} queued")
        if self.failed:
            words.append(f"{self.failed:,} failed")
        if self.cancelled:
            words.append(f"{self.cancelled:,} cancelled")
        if self.done and self.total > 1 and self.seconds > 0:
            words.append(f"{_rate(self.done / self.seconds)}/s")
        return ", ".join([*words, f"{self.seconds:.1f} s"])


_BAR = re.compile(r"(.*?):? *(\d+)%\|[^|]*\| *(.*)")
"""A bar as tqdm writes it: a name, how far it is, and the figures."""


def _drawn_bar(per_cent: int) -> str:
    return str(theme.bar(per_cent / 100, theme.GOOD if per_cent >= 100 else theme.BRAND))


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def _lost(row: FunctionCounts, now: float) -> FunctionCounts:
    """The counts when the cluster has been left: what had not ended, that has stopped."""
    if not row.unfinished:
        return row
    lost = row.copy()
    lost.cancelled, lost.running, lost.ended = row.cancelled + row.unfinished, 0, now
    lost.unfinished = 0  # it is asked again before the panel is final
    return lost


class TaskProgress:
    """What is known of the tasks of each cell. Used under the router's lock, but for `_take`."""

    def __init__(self) -> None:
        self._counts: dict[int, list[FunctionCounts]] = {}
        self._running = 0
        self._unfinished = False
        self._shown: set[tuple[int, str]] = set()
        self._final: set[int] = set()
        self._asked = 0.0

    def cell_began(self, number: int, now: float) -> None:
        """The cell of that number runs."""
        self._running = number

    def cell_ended(self, number: int) -> None:
        """It has ended; what its panel shows is brought up to date before the prompt returns."""
        if self._running == number:
            self._running = 0
        self._unfinished = True  # as far as is known: the next counts tell
        known = self._counts.get(number, [])
        is_shown = any(origin == number for origin, _ in self._shown)
        if is_shown or any(row.unfinished for row in known):  # else old counts would be shown now
            arrived = threading.Event()

            def take(counts: list[FunctionCounts]) -> None:
                self._take(counts)
                arrived.set()

            if engine().tasks.counts(take):
                arrived.wait(0.5)

    def is_live(self) -> bool:
        """Whether a cell runs, tasks have not ended, or their last state is not shown yet."""
        return bool(self._running) or self._unfinished or bool(self.cells())

    def ask(self) -> None:
        """Ask for new counts, at most four times a second."""
        now = time.monotonic()
        if self.is_live() and now - self._asked >= 0.25:
            self._asked = now
            if not engine().tasks.counts(self._take):  # the cluster is gone, and what ran in it
                self._take([_lost(row, now) for rows in self._counts.values() for row in rows])

    def _take(self, counts: list[FunctionCounts]) -> None:
        by_cell: dict[int, list[FunctionCounts]] = {}
        for row in counts:
            by_cell.setdefault(row.origin, []).append(row)
        self._counts = by_cell
        self._final = {
            number
            for number in self._final & by_cell.keys()
            if not any(row.unfinished for row in by_cell[number])
        }
        self._unfinished = any(row.unfinished for row in counts)

    def cells(self) -> list[int]:
        """The cells whose progress may have to be shown."""
        return [number for number in list(self._counts) if number not in self._final]

    def forget(self, number: int) -> None:
        """Nobody shows that cell's progress."""
        self._final.add(number)

    def rows(self, number: int, now: float) -> list[Row] | None:
        """The bars of a cell, or None when nothing new is to be shown."""
        counts = self._counts.get(number)
        if counts is None or number in self._final:
            return None
        rows = []
        for row in counts:
            key = (number, row.name)
            if row.unfinished and now - row.began >= AFTER_S:
                self._shown.add(key)
            if key in self._shown:
                until = now if row.unfinished else row.ended
                rows.append(
                    Row(
                        row.name, row.submitted, row.done, row.failed, row.running,
                        until - row.began, row.cancelled,
                    )
                )  # fmt: skip
        if not any(row.unfinished for row in counts) and number != self._running:
            self._final.add(number)
        return rows or None


class Panel:
    """One cell's panel: progress of tasks, progress bars from tasks, and what is not shown."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._bars: list[str] = []
        self._hidden: dict[str, int] = {}
        self._logs: list[str] = []

    def set(
        self,
        rows: list[Row] | None,
        bars: Sequence[str],
        hidden: dict[str, int],
        logs: Sequence[str],
    ) -> None:
        """What to show from now on; ``rows`` None leaves them as they are."""
        if rows is not None:
            self._rows = rows
        self._bars, self._hidden, self._logs = list(bars), dict(hidden), list(logs)

    @property
    def is_final(self) -> bool:
        """Whether all tasks that it shows have ended."""
        return all(row.is_final for row in self._rows)

    def bundle(self) -> dict[str, str]:
        """The panel as text and as HTML."""
        return {"text/plain": self.text(), "text/html": self.html()}

    def text(self) -> str:
        """The panel as lines."""
        names = [one_line(row.name) for row in self._rows]
        width = max(map(len, names), default=0)
        lines = [
            f"{name:<{width}} {bar(row.ended, row.total)} {row.words()}"
            for name, row in zip(names, self._rows, strict=True)
        ]
        lines += self._bars
        if self._hidden:
            lines.append(self._hidden_words())
            lines += [f"  {log}" for log in self._logs[:8]]
        return "\n".join(lines)

    def _hidden_words(self) -> str:
        total = sum(self._hidden.values())
        names = one_line(", ".join(f"{name} {count:,}" for name, count in self._hidden.items()))
        return f"{total:,} more lines after the first {LINE_LIMIT} ({names}) are in the logs:"

    def html(self) -> str:
        """The panel as HTML."""
        rows = [
            (
                f"<b>{theme.escape(row.name)}</b>",
                theme.bar(
                    (row.done + row.failed) / row.total if row.total else 0.0,
                    theme.GOOD if row.is_final else theme.BRAND,
                    row.failed / row.total if row.total else 0.0,
                ),
                theme.escape(row.words()),
            )
            for row in self._rows
        ]
        drawn = [_BAR.match(line) for line in self._bars]
        rows += [
            (f"<b>{theme.escape(found[1])}</b>", _drawn_bar(int(found[2])), theme.escape(found[3]))
            for found in drawn
            if found
        ]
        parts = [theme.grid((), rows)] if rows else []
        others = [line for line, found in zip(self._bars, drawn, strict=True) if not found]
        if others:
            text = "\n".join(theme.escape(line) for line in others)
            parts.append(
                '<pre style="margin:2px 0;background:none;color:inherit;padding:0;'
                f'overflow:auto">{text}</pre>'
            )
        if self._hidden:
            logs = "".join(f"<div><code>{theme.escape(log)}</code></div>" for log in self._logs[:8])
            parts.append(
                f'<details><summary style="cursor:pointer">{theme.escape(self._hidden_words())}'
                f"</summary>{logs}</details>"
            )
        shown: str = theme.card("".join(parts), "panel")
        return shown
