"""The benchmarks run and report sensible figures; how fast they are is not a test's matter."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import commands, engines, memory, others
from benchmarks.bench import Bench, expect
from benchmarks.report import Results, Run, as_json, from_json, markdown, row_results
from benchmarks.rows import ONCE, ROWS, Better, Row
from benchmarks.runner import APART, Effort, run
from benchmarks.workloads import WORKLOADS


def test_every_row_has_a_workload_and_every_workload_a_row() -> None:
    assert {row.workload for row in ROWS} - APART == set(WORKLOADS)
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_page_of_benchmarks_says_what_each_row_means() -> None:
    page = (engines.ROOT / "docs" / "benchmarks.md").read_text()
    told = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
    heads = {"row", "---", "engine", "loky", "Dask"}
    assert [row.name for row in ROWS if row.name not in told] == []
    known = {name for name in told if name not in heads and "loky," not in name}
    assert known == {row.name for row in ROWS}


def test_others_do_what_is_said_of_them_and_nothing_else() -> None:
    assert set(others.WORKLOADS) == engines.OF_OTHERS.union(*engines.OF_ONE.values())
    assert set(others.POOLS) == set(engines.BY_NAME) - {"nbray", "ray"}
    assert set(others.WORKLOADS) <= {row.workload for row in ROWS}
    assert {row.workload for row in ROWS} >= ONCE


@pytest.mark.parametrize("name", ["processpool"])
def test_the_work_of_others_is_done_and_reported(name: str) -> None:
    """It is in the standard library, so that it can always be tried."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as report:
        subprocess.run(
            [
                sys.executable, "-m", "benchmarks.others", "queued_tasks", "--engine", name,
                "--scale", "0.001", "--output-fd", str(write_end),
            ],
            cwd=engines.ROOT, pass_fds=[write_end], check=True, timeout=60,
        )  # fmt: skip
        os.close(write_end)
        lines = [json.loads(line) for line in report]
    assert {line["row"] for line in lines if "row" in line} == {
        row.name for row in ROWS if row.workload == "queued_tasks" and "peak" not in row.name
    }


def test_work_whose_result_is_wrong_is_not_measured() -> None:
    with pytest.raises(AssertionError, match="2 came back instead of 3"):
        expect(2, 3)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as told:
        arguments = argparse.Namespace(
            rows="", seconds=0.001, samples=1, scale=1.0, output_fd=write_end
        )
        bench = Bench(None, arguments)
        with pytest.raises(AssertionError, match="2 came back instead of 3"):
            bench.rate("wrong", lambda: 2, gives=3)
        bench.rate("right", lambda: 3, gives=3)
        del bench
        assert [json.loads(line)["row"] for line in told] == ["right"]


RUN = ["--engines", "nbray", "--rows", "^(import|first init)$"]


def _program(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=engines.ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_cut_goes_on_where_it_was_and_leaves_no_process(
    number: signal.Signals, session_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bench.json"
    # The rows have the time that they need: what is measured here is who goes on where.
    cut = _program(*RUN, "--minutes", "10", "--rounds", "2", "--output", str(output))
    assert cut.stdout is not None
    seen = [""]
    while "init, round 1" not in seen[-1]:
        seen.append(cut.stdout.readline())
        assert seen[-1], f"it has ended: {''.join(seen)}"
    below = psutil.Process(cut.pid).children(recursive=True)
    cut.send_signal(number)
    said, _ = cut.communicate(timeout=60)
    assert cut.returncode == (-number if number == signal.SIGKILL else 130)
    assert ("first init" in said) == (number != signal.SIGKILL)
    assert psutil.wait_procs(below, timeout=30)[1] == []
    first = json.loads(output.read_text())
    done = [(run["workload"], run["round"]) for run in first["done"]]
    assert done[0] == ("init", 1) and len(done) < 4
    table = tmp_path / "table.md"
    more = _program("--resume", str(output), "--minutes", "10", "--markdown", str(table))
    said, _ = more.communicate(timeout=200)
    assert more.returncode == 0, said
    whole = json.loads(output.read_text())
    every = [(workload, turn) for turn in (1, 2) for workload in ("init", "imports")]
    assert [(run["workload"], run["round"]) for run in whole["done"]] == every
    assert len(whole["machine"]["resumed"]) == 1
    rows = {row["row"]: row["nbray"]["samples"] for row in whole["rows"]}
    assert len(rows["first init"]) == 2 and len(rows["import"]) == 10
    assert rows["first init"][0] == first["rows"][0]["nbray"]["samples"][0]
    assert "| first init | s | " in table.read_text()


@pytest.mark.slow
def test_what_takes_too_long_or_has_no_time_is_left_with_its_reason(
    session_root: Path, tmp_path: Path
) -> None:
    outcome = run(engines.nbray(), "idle_memory", "", Effort(timeout_s=1.5))
    assert outcome.left == "over 2 s" and not outcome.problem
    late = _program(*RUN, "--minutes", "0.1", "--output", str(tmp_path / "bench.json"))
    said, _ = late.communicate(timeout=60)
    assert late.returncode == 0 and said.count("no time left") == 4, said


def test_a_file_of_something_else_cannot_be_resumed(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("[]")
    refused = _program("--resume", str(other))
    said, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2 and "is no file of this program's" in said


def test_what_is_written_is_read_back_as_it_was() -> None:
    rows = [row for row in ROWS if row.workload in ("init", "tasks", "sort")]
    results = Results({"cpu": "x", "cores": 2})
    results.samples = {"first init": {"nbray": [1.0, 2.0]}, "tasks sync": {"ray": [3.0]}}
    results.left = {"sort": {"ray": "over 90 s"}}
    results.problems = {"tasks": {"nbray": "exit status 1"}}
    results.scales = {"sort": 0.25}
    results.done = [Run("init", 1, "nbray", 1.5)]
    assert from_json(json.loads(json.dumps(as_json(rows, results)))) == results
    table = markdown(rows, results, ["nbray", "ray"])
    assert "| sort of 2 GB, GB/s (at 0.25 of its size) | GB/s | - | over 90 s |" in table
    assert "| tasks sync | 1/s | failed | 3.00 |" in table


@pytest.mark.slow
def test_two_quick_rows_report_figures_and_the_machine(session_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--engines", "nbray", "--quick",
            "--rows", "^(tasks sync|idle cluster)$", "--output", str(output),
        ],
        cwd=engines.ROOT, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tasks sync" in done.stdout and "Memory in MB: nbray, idle_memory" in done.stdout
    found = json.loads(output.read_text())
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["versions"]["nbray"]
    rows = {row["row"]: row for row in found["rows"]}
    assert rows["tasks sync"]["nbray"]["median"] > 1
    assert "put small" not in rows
    processes = {process["role"]: process for process in found["processes"]["idle_memory"]["nbray"]}
    assert {"driver", "gcs", "raylet", "template", "worker"} <= set(processes)
    for process in processes.values():
        assert 1 < process["uss"] < process["pss"] + process["shared"] + 1
        assert process["pss"] < process["peak"] < 1000
    assert math.isclose(
        rows["idle cluster"]["nbray"]["median"],
        sum(process["pss"] for process in found["processes"]["idle_memory"]["nbray"]),
    )


@pytest.mark.parametrize(
    ("row", "ours", "times_better", "reached"),
    [
        (Row("rate", "tasks"), 1000.0, 10.0, True),
        (Row("rate", "tasks"), 999.0, 9.99, False),
        (Row("start", "init", "s", Better.LOWER, None, 1.0), 0.5, 200.0, True),
        (Row("start", "init", "s", Better.LOWER, None, 1.0), 1.5, 100.0 / 1.5, False),
        (Row("memory", "idle_memory", "MB", Better.LOWER, None), 50.0, 2.0, None),
    ],
)
def test_ratios_say_how_many_times_better(
    row: Row, ours: float, times_better: float, reached: bool | None
) -> None:
    entry = row_results(row, {"nbray": [ours, ours * 3, ours / 3], "ray": [100.0]})
    assert entry["times_better"] == pytest.approx(times_better)
    assert entry.get("reached") is reached
    assert entry["nbray"]["low"] < entry["nbray"]["median"] < entry["nbray"]["high"]


def test_a_process_is_measured_with_its_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = {process.pid: process for process in memory.measure_tree(os.getpid())}
    finally:
        child.communicate(b"\n")
    assert found[os.getpid()].role == "driver"
    assert 0 < found[child.pid].uss <= found[child.pid].peak


def test_the_command_that_ends_others_runs_only_where_it_sees_none() -> None:
    """Outside a PID namespace of its own, Ray's stop is not even begun."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as report:
        subprocess.run(
            [
                sys.executable, "-m", "benchmarks.commands", "--engine", "ray",
                "--output-fd", str(write_end), "--outside", commands.namespace(),
            ],
            cwd=engines.ROOT, pass_fds=[write_end], check=True, timeout=60,
            env={**os.environ, "RAY_PYTHON": "/nowhere"},
        )  # fmt: skip
        os.close(write_end)
        assert "not in a PID namespace of its own" in json.loads(report.read())["problem"]
