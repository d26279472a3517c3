"""Programs written for Ray run with ``import nbray as ray`` and no other change.

Each asserts its own results; `under_ray` runs them under Ray, where they end in the same lines.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
LAST_LINES = {
    "async_server": "100 requests at once, sum 9900",
    "back_pressure": "two workers shared 10 items",
    "batch_prediction": "predicted 600 rows",
    "crawler": "crawled 5 pages",
    "fault_tolerance": "the count goes on after a restart",
    "hyperparameter_search": "a get that waits too long ends",
    "monte_carlo_pi": "pi is about 3.1",
    "named_actors": "found by name, heard out of band, taken from a queue",
    "nested_refs": "values are read-only, refs are first-class",
    "parameter_server": "each at its pace: the same",
    "placement_groups": "two workers trained in one group",
    "shared_model": "ten versions, the last of 2045 rows",
    "streaming_pipeline": "dynamic returns: 5",
    "tree_of_actors": "sums [60, 60] and a leaf called directly",
    "word_count": "most common: [('the', 40)]",
}


def test_every_program_is_listed() -> None:
    assert {path.stem for path in PROGRAMS.glob("*.py")} == set(LAST_LINES)


@pytest.mark.parametrize("name", LAST_LINES)
def test_program(session_root: Path, name: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(PROGRAMS / f"{name}.py")], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == LAST_LINES[name]
