"""The benchmarks run and report sensible figures; how fast they are is not a test's matter."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import commands, engines, memory, others, scale
from benchmarks.bench import expect
from benchmarks.report import row_results
from benchmarks.rows import ONCE, ROWS, Better, Row
from benchmarks.runner import Effort, run
from benchmarks.workloads import WORKLOADS


def test_every_row_has_a_workload_and_every_workload_a_row() -> None:
    apart = {"commands", "from_afar", "links", "nodes"}
    assert {row.workload for row in ROWS} - apart == set(WORKLOADS)
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_page_of_benchmarks_says_what_each_row_means() -> None:
    page = (engines.ROOT / "docs" / "benchmarks.md").read_text()
    told = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
    heads = {"row", "---", "engine"}
    assert [row.name for row in ROWS if row.name not in told] == []
    known = {name for name in told if name not in heads and "loky" not in name}
    assert known == {row.name for row in ROWS}


def test_others_do_what_is_said_of_them_and_nothing_else() -> None:
    assert set(others.WORKLOADS) == set(engines.OF_OTHERS)
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
    assert {line["row"] for line in lines[1:]} == {
        row.name for row in ROWS if row.workload == "queued_tasks" and "peak" not in row.name
    }


@pytest.mark.slow
@pytest.mark.parametrize("workload", [*scale.WORKLOADS, "nodes"])
def test_each_row_at_scale_measures_the_work_it_names(workload: str, session_root: Path) -> None:
    """The work checks its own result; every row of it is reported, by nothing else."""
    rows = {row.name for row in ROWS if row.workload == workload}
    outcome = run(engines.nbray(), workload, "", Effort(0.1, 1, scale=0.002, timeout_s=110))
    assert not outcome.problem and not outcome.missing
    assert set(outcome.samples) == rows
    assert all(figure >= 0 for figures in outcome.samples.values() for figure in figures)


def test_work_whose_result_is_wrong_is_not_measured() -> None:
    with pytest.raises(AssertionError, match="2 came back instead of 3"):
        expect(2, 3)


@pytest.mark.slow
def test_two_quick_rows_report_figures_and_the_machine(session_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--engines", "nbray", "--quick",
            "--rows", "^(tasks sync|idle cluster)$", "--output", str(output),
        ],
        cwd=engines.ROOT, capture_output=True, text=True, timeout=110,
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
