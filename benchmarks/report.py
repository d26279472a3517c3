"""The table that people read, and the JSON that programs do."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.memory import ProcessMemory
from benchmarks.rows import Row


@dataclass(frozen=True)
class Run:
    """One run of a workload by an engine, and how long it took with start and end."""

    workload: str
    round: int
    engine: str
    seconds: float


@dataclass
class Results:
    """All that a run measured.

    Attributes:
        machine: the facts of `benchmarks.machine`.
        versions: of each engine.
        samples: figures by row and engine.
        processes: the memory of each process, by workload and engine.
        problems: what went wrong, by workload and engine.
        missing: what an engine does not have, by workload and engine.
        left: why it was left before its end, by workload and engine.
        scales: the part of its whole size at which a workload was measured, where less than all.
        done: the runs that came to their end, in order.
    """

    machine: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    processes: dict[str, dict[str, list[ProcessMemory]]] = field(default_factory=dict)
    problems: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    left: dict[str, dict[str, str]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    done: list[Run] = field(default_factory=list)

    def reason(self, workload: str, engine: str) -> tuple[str, str]:
        """Why a figure is not there: in a word, and in full; empty without a reason."""
        if why := self.left.get(workload, {}).get(engine):
            return why, f"left, {why}"
        if what := self.missing.get(workload, {}).get(engine):
            return "has none", f"not measured, there is no {what}"
        if problem := self.problems.get(workload, {}).get(engine):
            return "failed", problem
        return "", ""


@dataclass(frozen=True)
class Summary:
    """The median of some samples, and their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary | None:
        """None without samples."""
        if not samples:
            return None
        return cls(statistics.median(samples), min(samples), max(samples))


def row_results(row: Row, samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A row as it stands in the JSON: medians, spreads, the ratio and whether it suffices."""
    entry: dict[str, Any] = {
        "row": row.name, "unit": row.unit, "better": row.better.value,
        "wanted_times": row.times, "limit": row.limit,
    }  # fmt: skip
    summaries = {engine: Summary.of(values) for engine, values in samples.items()}
    for engine, summary in summaries.items():
        if summary is not None:
            entry[engine] = {
                "median": summary.median, "low": summary.low, "high": summary.high,
                "samples": list(samples[engine]),
            }  # fmt: skip
    ours, theirs = summaries.get("nbray"), summaries.get("ray")
    if ours is not None and theirs is not None:
        entry["times_better"] = row.ratio(ours.median, theirs.median)
    if ours is not None and (row.limit is not None or (row.times is not None and theirs)):
        entry["reached"] = row.meets_limit(ours.median) and (
            row.times is None or theirs is None or entry["times_better"] >= row.times
        )
    return entry


def as_json(rows: Sequence[Row], results: Results) -> dict[str, Any]:
    """Everything, for a file."""
    found = []
    for row in _begun(rows, results):
        entry = row_results(row, results.samples.get(row.name, {}))
        if row.workload in results.scales:
            entry["part_of_whole_size"] = results.scales[row.workload]
        found.append(entry)
    return {
        "machine": results.machine,
        "versions": results.versions,
        "rows": found,
        "processes": {
            workload: {
                engine: [process.as_dict() for process in processes]
                for engine, processes in engines.items()
            }
            for workload, engines in results.processes.items()
        },
        "problems": results.problems,
        "missing": results.missing,
        "left": results.left,
        "scales": results.scales,
        "done": [asdict(run) for run in results.done],
    }


def from_json(found: Mapping[str, Any]) -> Results:
    """What `as_json` gave."""
    results = Results(
        found["machine"], found["versions"], problems=found["problems"], missing=found["missing"],
        left=found["left"], scales=found["scales"], done=[Run(**run) for run in found["done"]],
    )  # fmt: skip
    for row in found["rows"]:
        for name, entry in row.items():
            if isinstance(entry, dict):
                results.samples.setdefault(row["row"], {})[name] = entry["samples"]
    for workload, engines in found["processes"].items():
        results.processes[workload] = {
            engine: [ProcessMemory(**process) for process in processes]
            for engine, processes in engines.items()
        }
    return results


def write(path: Path, rows: Sequence[Row], results: Results, asked: Mapping[str, Any]) -> None:
    """Write the JSON file anew, whole at any moment; ``asked`` is what the run was told."""
    partly = path.with_name(path.name + ".part")
    partly.write_text(json.dumps({"asked": asked, **as_json(rows, results)}, indent=1) + "\n")
    partly.replace(path)


def _begun(rows: Sequence[Row], results: Results) -> list[Row]:
    """The rows of which there is a figure, or a reason why there is none."""
    tried = results.problems.keys() | results.missing.keys() | results.left.keys()
    return [row for row in rows if row.name in results.samples or row.workload in tried]


def markdown(rows: Sequence[Row], results: Results, engines: Sequence[str]) -> str:
    """The table as a page has it."""
    lines = [
        f"| row | unit | {' | '.join(engines)} | times better | asked |",
        f"|---|---|{'---|' * len(engines)}---|---|",
    ]
    lines += [f"| {' | '.join(cells)} |" for cells, _ in _lines(rows, results, engines)]
    return "\n".join(lines) + "\n"


def _lines(
    rows: Sequence[Row], results: Results, engines: Sequence[str]
) -> Iterator[tuple[list[str], bool | None]]:
    """The cells of each line, and whether what is asked was reached."""
    for row in _begun(rows, results):
        entry = row_results(row, results.samples.get(row.name, {}))
        part = results.scales.get(row.workload)
        times = f"{entry['times_better']:.2f}" if "times_better" in entry else ""
        yield [
            row.name + (f" (at {part:g} of its size)" if part else ""),
            row.unit,
            *(
                _figures(entry[engine]) if engine in entry
                else results.reason(row.workload, engine)[0] or "-"
                for engine in engines
            ),
            times,
            _asked(row),
        ], entry.get("reached")  # fmt: skip


def show(console: Console, rows: Sequence[Row], results: Results, engines: Sequence[str]) -> None:
    """Print the table of ratios, the processes' memory, and what went wrong."""
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    table = Table(title=f"{versions}, on {machine['cores']} cores of {machine['cpu']}")
    table.add_column("row")
    table.add_column("unit")
    for engine in engines:
        table.add_column(engine, justify="right")
    table.add_column("times better", justify="right")
    table.add_column("asked", justify="right")
    for cells, reached in _lines(rows, results, engines):
        colour = {True: "green", False: "red", None: ""}[reached]
        table.add_row(*cells[:-2], *(Text(cell, colour) for cell in cells[-2:]))
    console.print(table)
    console.print(
        "Medians, and the half of the distance between the lowest and the highest of several."
    )
    for workload, by_engine in results.processes.items():
        for engine, processes in by_engine.items():
            _show_processes(console, f"{engine}, {workload}", processes)
    for workload in dict.fromkeys(row.workload for row in rows):
        for engine in engines:
            if reason := results.reason(workload, engine)[1]:
                console.print(f"[red]{engine}, {workload}:[/red]", end=" ")
                console.print(reason, markup=False, highlight=False)


def _figures(entry: Mapping[str, Any]) -> str:
    median = entry["median"]
    if len(entry["samples"]) < 2:
        return short(median)
    spread = (entry["high"] - entry["low"]) / 2 / median if median else 0.0
    return f"{short(median)} ±{spread:3.0%}"


def short(value: float) -> str:
    """Three digits that mean something."""
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _asked(row: Row) -> str:
    asked = []
    if row.times is not None:
        asked.append(f"{row.times:g} times")
    if row.limit is not None:
        word = "at least" if row.better.value == "higher" else "at most"
        asked.append(f"{word} {row.limit:g} {row.unit}".strip())
    return ", ".join(asked)


def _show_processes(console: Console, title: str, processes: Sequence[ProcessMemory]) -> None:
    table = Table(title=f"Memory in MB: {title}", title_justify="left")
    table.add_column("process")
    for column in ("private (USS)", "share (PSS)", "of shared memory", "peak"):
        table.add_column(column, justify="right")
    for process in processes:
        table.add_row(
            f"{process.role} (pid {process.pid})",
            *(f"{x:.1f}" for x in (process.uss, process.pss, process.shared, process.peak)),
        )
    table.add_row(
        "all", f"{sum(p.uss for p in processes):.1f}", f"{sum(p.pss for p in processes):.1f}",
        f"{sum(p.shared for p in processes):.1f}", "", style="bold",
    )  # fmt: skip
    console.print(table)
