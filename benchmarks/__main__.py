"""``python -m benchmarks``: measure, print a table, write JSON.

The engines take turns, workload by workload and round by round, so that whatever else the
machine does meets both. ARCHITECTURE.md is the place for figures that decide something.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import click
from rich.console import Console

from benchmarks import engines as known
from benchmarks import machine, report
from benchmarks.rows import ONCE, ROWS, Row
from benchmarks.runner import Effort, run


@click.command()
@click.option("--rows", "pattern", default="", help="Only rows whose name matches this pattern.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True,
              help="How often the engines take turns.")  # fmt: skip
@click.option("--quick", is_flag=True, help="One round of short samples: does it run at all?")
@click.option("--engines", "names", default=",".join(known.BY_NAME), show_default=True,
              help="Which engines, in turns.")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path),
              help="The JSON file; bench-DATE.json by default.")  # fmt: skip
def main(pattern: str, rounds: int, quick: bool, names: str, output: Path | None) -> None:
    """Measure nbray beside Ray, and beside others for the rows that they can do."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    rows = _matching(pattern)
    engines = [_engine(name) for name in names.split(",")]
    effort = Effort(seconds=0.1, samples=1, scale=0.01) if quick else Effort()
    results = report.Results(machine.facts())
    load, cores = results.machine["load_before"][0], results.machine["cores"]
    if load > cores / 4:
        console.print(f"[yellow]The load is {load} before the start: compare with care.[/yellow]")
    for workload in dict.fromkeys(row.workload for row in rows):
        for number in range(1 if quick or workload in ONCE else rounds):
            for engine in engines:
                if not engine.does(workload):
                    continue
                console.print(f"{workload}, round {number + 1}, {engine.name}", style="dim")
                _measure(engine, workload, pattern, effort, results)
    path = output or Path(f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json")
    report.write(path, rows, results)
    report.show(console, rows, results, [engine.name for engine in engines])
    console.print(f"Written to {path}.")
    if results.problems:
        raise SystemExit(1)


def _matching(pattern: str) -> list[Row]:
    try:
        rows = [row for row in ROWS if re.search(pattern, row.name)]
    except re.error as error:
        raise click.BadParameter(str(error), param_hint="--rows") from error
    if not rows:
        raise click.BadParameter(f"no row matches {pattern!r}", param_hint="--rows")
    return rows


def _engine(name: str) -> known.Engine:
    if name not in known.BY_NAME:
        raise click.BadParameter(
            f"{name!r} is none of {', '.join(known.BY_NAME)}", param_hint="--engines"
        )
    engine = known.BY_NAME[name]()
    if not Path(engine.python).exists():
        raise click.ClickException(
            f"There is no {engine.python} for {name}: `make bench` makes it, with Ray "
            f"{known.pinned_ray()} in one and all others in another; RAY_PYTHON and OTHERS_PYTHON "
            "name other interpreters, and --engines leaves some out."
        )
    return engine


def _measure(
    engine: known.Engine, workload: str, pattern: str, effort: Effort, results: report.Results
) -> None:
    outcome = run(engine, workload, pattern, effort)
    if outcome.version:
        results.versions[engine.name] = outcome.version
    for row, samples in outcome.samples.items():
        results.samples.setdefault(row, {}).setdefault(engine.name, []).extend(samples)
    if outcome.processes:
        results.processes.setdefault(workload, {})[engine.name] = outcome.processes
    if outcome.missing:
        results.missing.setdefault(workload, {})[engine.name] = outcome.missing
    if outcome.problem:
        results.problems.setdefault(workload, {})[engine.name] = outcome.problem


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
