"""``python -m benchmarks``: measure, print a table, write JSON.

The engines take turns, round by round and workload by workload, so that whatever else the
machine does meets all. ARCHITECTURE.md is the place for figures that decide something.
"""

from __future__ import annotations

import json
import math
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

from benchmarks import engines as known
from benchmarks import kin, machine, report
from benchmarks.rows import ROWS, Row
from benchmarks.turns import Asked, Turns

_SAME_MACHINE = ("cpu", "cores", "python")


@click.command()
@click.option("--rows", "pattern", default="", help="Only rows whose name matches this pattern.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True,
              help="How often the engines take turns, at most.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0, min_open=True),
              help="An end after so long; short samples, the largest work smaller.")  # fmt: skip
@click.option("--quick", is_flag=True, help="One round of short samples: does it run at all?")
@click.option("--engines", "names", default=",".join(known.BY_NAME), show_default=True,
              help="Which engines, in turns.")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path),
              help="The JSON file; bench-DATE.json by default.")  # fmt: skip
@click.option("--resume", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Go on with the run that wrote this file.")  # fmt: skip
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the table there, too, as a page has it.")  # fmt: skip
def main(
    pattern: str, rounds: int, minutes: float | None, quick: bool, names: str,
    output: Path | None, resume: Path | None, markdown: Path | None,
) -> None:  # fmt: skip
    """Measure nbray beside Ray, and beside others for the rows that they can do."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    if quick and minutes is not None:
        raise click.UsageError("--quick and --minutes exclude each other.")
    size: Literal["full", "short", "quick"] = "quick" if quick else "short" if minutes else "full"
    asked = Asked(pattern, tuple(names.split(",")), 1 if quick else rounds, size)
    results = report.Results(machine.facts())
    load, cores = results.machine["load_before"][0], results.machine["cores"]
    if resume is not None:
        asked, results = _resumed(resume, results.machine, asked)
    rows = _matching(asked.pattern)
    engines = [_engine(name) for name in asked.engines]
    if load > cores / 4:
        console.print(f"[yellow]The load is {load} before the start: compare with care.[/yellow]")
    path = output or resume or Path(f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json")
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    turns = Turns(asked, rows, engines, results, path, deadline)
    kin.adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    interrupted = False
    try:
        turns.take(console)
    except KeyboardInterrupt:
        interrupted = True
        turns.write()
    report.show(console, rows, results, asked.engines)
    if markdown is not None:
        markdown.write_text(report.markdown(rows, results, asked.engines))
    console.print(f"Written to {path}; --resume {path} goes on with what is not done.")
    if interrupted:
        raise SystemExit(130)
    if any(results.problems.values()):
        raise SystemExit(1)


def _resumed(
    path: Path, here: dict[str, Any], now: Asked
) -> tuple[Asked, report.Results]:  # fmt: skip
    """What that file was asked, with what this run was told anew, and what it has."""
    told = click.get_current_context()

    def is_given(name: str) -> bool:
        return told.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT

    try:
        found = json.loads(path.read_text())
        asked, results = Asked.from_dict(found["asked"]), report.from_json(found)
    except (ValueError, KeyError, TypeError) as error:
        raise click.BadParameter(
            f"{path} is no file of this program's: {error!r}", param_hint="--resume"
        ) from error
    for fact in _SAME_MACHINE:
        if results.machine[fact] != here[fact]:
            raise click.BadParameter(
                f"{path} has figures of {fact} {results.machine[fact]}, this is {here[fact]}",
                param_hint="--resume",
            )
    if is_given("pattern") or (is_given("quick") and now.size != asked.size):
        raise click.UsageError("--resume takes the rows and their size from the file.")
    if is_given("minutes") and asked.size != "short":
        raise click.UsageError(f"{path} is of a {asked.size} run: --minutes measures another size.")
    results.machine.setdefault("resumed", []).append(here)
    if is_given("rounds"):
        asked = replace(asked, rounds=now.rounds)
    if is_given("names"):
        asked = replace(asked, engines=now.engines)
    return asked, results


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


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
