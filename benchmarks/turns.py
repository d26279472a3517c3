"""Who measures what and when: round by round, workload by workload, the engines in turns.

What is written is whole after each run, so that a run of the program that was interrupted, killed
or out of time goes on where it was: a workload that came to its end is not measured twice. One
that failed, or for which there was no time, is tried again then.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from benchmarks import report
from benchmarks.engines import Engine
from benchmarks.rows import ONCE, SHORT_SCALES, Row
from benchmarks.runner import Effort, Outcome, run

NO_TIME = "no time left"
_LEAST_S = 15.0  # less is not enough to start Ray

EFFORTS = {
    "full": Effort(),
    "short": Effort(0.5, timeout_s=90.0, scales=SHORT_SCALES, timeouts_s={"from_afar": 150.0}),
    "quick": Effort(seconds=0.1, samples=1, scale=0.01, timeout_s=300.0),
}


@dataclass(frozen=True)
class Asked:
    """What a run was told.

    Attributes:
        pattern: of the rows.
        engines: by name.
        rounds: at most.
        size: of the work: one of `EFFORTS`.
    """

    pattern: str
    engines: tuple[str, ...]
    rounds: int
    size: Literal["full", "short", "quick"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Asked:
        """What `as_dict` gave."""
        return cls(**{**found, "engines": tuple(found["engines"])})


class Turns:
    """All runs of all engines, until a deadline; each is written as soon as it is done."""

    def __init__(
        self, asked: Asked, rows: Sequence[Row], engines: Sequence[Engine],
        results: report.Results, path: Path, deadline: float,
    ) -> None:  # fmt: skip
        self._asked = asked
        self._rows = rows
        self._engines = engines
        self._results = results
        self._path = path
        self._deadline = deadline
        self._effort = EFFORTS[asked.size]
        self._workloads = list(dict.fromkeys(row.workload for row in rows))

    def take(self, console: Console) -> None:
        """Take all of them that are not done yet."""
        began = time.monotonic()
        self.write()
        for number, workload, engine in self._pending():
            left_s = self._left_s()
            if left_s < _LEAST_S:
                self._results.left.setdefault(workload, {})[engine.name] = NO_TIME
                continue
            at = time.monotonic()
            outcome = run(engine, workload, self._asked.pattern, self._effort, left_s)
            if outcome.left and left_s < self._effort.timeout_of(workload):
                outcome.left = NO_TIME
            self._keep(report.Run(workload, number, engine.name, time.monotonic() - at), outcome)
            self.write()
            minutes, seconds = divmod(int(time.monotonic() - began), 60)
            told = self._told(engine.name, workload, outcome)
            console.print(
                f"{minutes:2}:{seconds:02} {workload}, round {number}, {engine.name}: {told}",
                style="dim", markup=False, highlight=False,
            )  # fmt: skip
        self.write()

    def write(self) -> None:
        """Write what there is so far."""
        report.write(self._path, self._rows, self._results, self._asked.as_dict())

    def _left_s(self) -> float:
        return self._deadline - time.monotonic()

    def _pending(self) -> Iterator[tuple[int, str, Engine]]:
        results = self._results
        for number in range(1, self._asked.rounds + 1):
            for workload in self._workloads:
                if number > 1 and workload in ONCE:
                    continue
                took = {run.engine: run.seconds for run in results.done if run.workload == workload}
                done = {
                    run.engine for run in results.done
                    if (run.workload, run.round) == (workload, number)
                }  # fmt: skip
                todo = [
                    engine for engine in self._engines
                    if engine.does(workload) and engine.name not in done
                    and (number == 1 or not results.reason(workload, engine.name)[0])
                ]  # fmt: skip
                # A round more is taken whole or not at all.
                needed = sum(took.get(engine.name, 0.0) for engine in todo)
                if number == 1 or needed < self._left_s():
                    yield from ((number, workload, engine) for engine in todo)

    def _keep(self, done: report.Run, outcome: Outcome) -> None:
        results, engine, workload = self._results, done.engine, done.workload
        for reasons in (results.problems, results.missing, results.left):
            reasons.get(workload, {}).pop(engine, None)
        if outcome.version:
            results.versions[engine] = outcome.version
        if outcome.part != 1:
            results.scales[workload] = outcome.part
        if outcome.processes:
            results.processes.setdefault(workload, {})[engine] = outcome.processes
        for reasons, reason in (
            (results.problems, outcome.problem),
            (results.missing, outcome.missing),
            (results.left, outcome.left),
        ):
            if reason:
                reasons.setdefault(workload, {})[engine] = reason
        if outcome.problem or outcome.left == NO_TIME:
            return  # it may be tried again, and then all of it is measured
        for row, samples in outcome.samples.items():
            results.samples.setdefault(row, {}).setdefault(engine, []).extend(samples)
        results.done.append(done)

    def _told(self, engine: str, workload: str, outcome: Outcome) -> str:
        medians = {row: statistics.median(found) for row, found in outcome.samples.items() if found}
        figures = [
            f"{row.name} {report.short(medians[row.name])} {row.unit}".strip()
            for row in self._rows
            if row.name in medians
        ]
        reason = self._results.reason(workload, engine)[0]
        return "; ".join([*figures, *([reason] if reason else [])])
