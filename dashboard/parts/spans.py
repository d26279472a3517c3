"""The tasks of the last minutes, for the task stream: what ran when, in which worker.

Filled while somebody looks at it, with what ended since it was last asked. Bounded: the oldest go.
Of many short tasks, workers tell of a sample (see `nbray.core_worker.tell`); exact counts are
elsewhere (`TaskTotals`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nbray.state import queries as q
from nbray.state.rows import TaskList, TaskState

from .cluster import Cluster

COLOURS = (
    "#4c8dd6", "#dd8f2e", "#3fa66b", "#b07cc6", "#c9b037", "#4fb3bf", "#d0709a", "#8c8c5a",
)  # fmt: skip
"""Told apart on dark and on light ground; red is kept for what failed."""
BAD = "#e5534b"
DIM = "#8a919c"
MOST_SPANS = 6000
MOST_LANES = 60
_ROWS_A_LOOK = 1200
_FIRST_LOOK_S = 300.0
_OVERLAP_MS = 0.05
_KEY = "spans"


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt that has begun; times in ms since the epoch, ``end`` 0 while it runs."""

    task_id: str
    attempt: int
    name: str
    state: str
    start: float
    end: float
    node_id: str
    worker_id: str
    pid: int
    error: str

    @property
    def failed(self) -> bool:
        """Whether it ended with an error that nobody wished."""
        return self.state == "FAILED" and self.error != "TASK_CANCELLED"


class Spans:
    """The spans of one cluster, shared by all who look."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._spans: dict[tuple[str, int], Span] = {}
        self._running: list[Span] = []
        self._since = 0.0
        self._colours: dict[str, str] = {}
        self.left_out = ""

    async def look(self) -> None:
        """Ask for what is new, if nobody has just done it."""
        await self._cluster.once(_KEY, self._ask)

    async def _ask(self) -> tuple[None, float]:
        now = time.time()
        since = max(self._since, now - _FIRST_LOOK_S)
        nodes = sum(node.state == "ALIVE" for node in await self._cluster.nodes())
        limit = max(40, _ROWS_A_LOOK // max(1, nodes))
        query = q.tasks(limit, since=since)
        body = await self._cluster.client.fetch(query)
        began = time.thread_time()
        self.add(query.read(body))
        self._since = now - 2.0  # what a worker tells comes late by half a second
        return None, time.thread_time() - began

    def add(self, found: TaskList) -> None:
        """Take what the cluster tells."""
        self._running = []
        for row in found.rows:
            if not (row.start_time_ms and row.worker_id):
                continue
            span = _span(row)
            if span.end:
                self._spans[span.task_id, span.attempt] = span
            else:
                self._running.append(span)
        if len(self._spans) > MOST_SPANS:
            newest = sorted(self._spans.items(), key=lambda item: item[1].end)
            self._spans = dict(newest[-MOST_SPANS:])
        notes = [*found.missing]
        if found.silent:
            notes.append(f"{found.silent} processes did not answer in time")
        self.left_out = "; ".join(notes)

    def since(self, start_ms: float) -> list[Span]:
        """What ran after that, by its beginning."""
        now = time.time() * 1000
        ended = [span for span in self._spans.values() if span.end >= start_ms]
        return sorted(
            [*ended, *(span for span in self._running if span.start <= now)],
            key=lambda span: span.start,
        )

    def colour(self, name: str) -> str:
        """The colour of a function, always the same."""
        if name not in self._colours:
            if len(self._colours) > MOST_SPANS:
                self._colours.clear()
            self._colours[name] = COLOURS[len(self._colours) % len(COLOURS)]
        return self._colours[name]


def _span(row: TaskState) -> Span:
    return Span(
        row.task_id, row.attempt_number, row.name, row.state, row.start_time_ms or 0.0,
        row.end_time_ms or 0.0, row.node_id or "", row.worker_id or "", row.worker_pid or 0,
        row.error_type or "",
    )  # fmt: skip


def lanes(
    spans: Iterable[Span], now_ms: float, most: int = MOST_LANES
) -> tuple[list[str], list[tuple[int, Span]], int]:
    """Names of rows, each span with its row, and how many workers have none.

    The spans of a row do not overlap: a worker that runs several calls at once has several rows,
    which stand together.
    """
    workers: dict[str, list[list[Span]]] = {}
    for span in spans:
        rows = workers.setdefault(span.worker_id, [])
        for row in rows:
            last = row[-1]
            if (last.end or now_ms) <= span.start + _OVERLAP_MS:
                row.append(span)
                break
        else:
            rows.append([span])
    names: list[str] = []
    placed: list[tuple[int, Span]] = []
    drawn = 0
    for rows in sorted(workers.values(), key=lambda rows: (rows[0][0].node_id, rows[0][0].pid)):
        if len(names) + len(rows) > most and names:
            continue
        drawn += 1
        for number, row in enumerate(rows[: most - len(names)]):
            first = row[0]
            label = f"{first.node_id[:4]} pid {first.pid}"
            names.append(label if not number else f"{label} +{number}")
            placed += [(len(names) - 1, span) for span in row]
    return names, placed, len(workers) - drawn


def by_function(spans: Sequence[Span]) -> dict[str, list[float]]:
    """The seconds of those that ended, by function."""
    found: dict[str, list[float]] = {}
    for span in spans:
        if span.end:
            found.setdefault(span.name, []).append((span.end - span.start) / 1000)
    return found
