"""The table that people read, and the JSON that programs do."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.memory import ProcessMemory
from benchmarks.rows import Row


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
    """

    machine: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    processes: dict[str, dict[str, list[ProcessMemory]]] = field(default_factory=dict)
    problems: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)


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
    return {
        "machine": results.machine,
        "versions": results.versions,
        "rows": [
            row_results(row, results.samples[row.name])
            for row in rows
            if row.name in results.samples
        ],
        "processes": {
            workload: {
                engine: [process.as_dict() for process in processes]
                for engine, processes in engines.items()
            }
            for workload, engines in results.processes.items()
        },
        "problems": results.problems,
        "missing": results.missing,
    }


def write(path: Path, rows: Sequence[Row], results: Results) -> None:
    """Write the JSON file."""
    path.write_text(json.dumps(as_json(rows, results), indent=1) + "\n")


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
    for row in rows:
        if row.name not in results.samples:
            continue
        entry = row_results(row, results.samples[row.name])
        times = f"{entry['times_better']:.2f}" if "times_better" in entry else ""
        colour = {True: "green", False: "red", None: ""}[entry.get("reached")]
        table.add_row(
            row.name, row.unit, *(_figures(entry.get(engine)) for engine in engines),
            Text(times, colour), Text(_asked(row), colour),
        )  # fmt: skip
    console.print(table)
    console.print("Medians, and the half of the distance between the lowest and the highest.")
    for workload, by_engine in results.processes.items():
        for engine, processes in by_engine.items():
            _show_processes(console, f"{engine}, {workload}", processes)
    for workload, absent in results.missing.items():
        for engine, what in absent.items():
            console.print(f"{engine}, {workload}: not measured, there is no {what} yet")
    for workload, problems in results.problems.items():
        for engine, problem in problems.items():
            console.print(f"[red]{engine}, {workload}:[/red]", end=" ")
            console.print(problem, markup=False, highlight=False)


def _figures(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    median = entry["median"]
    spread = (entry["high"] - entry["low"]) / 2 / median if median else 0.0
    return f"{_short(median)} ±{spread:3.0%}"


def _short(value: float) -> str:
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
