"""A control plane under many nodes: all know each other, and nobody is taken for dead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "many_nodes.py"


def figures(nodes: int, timeout: float) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--nodes", str(nodes), "--seconds", "2"],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_fifty_nodes_hear_of_each_other() -> None:
    assert figures(50, 60)["false_deaths"] == 0


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1300)
def test_a_thousand_nodes_hear_of_each_other() -> None:
    found = figures(1000, 1200)
    assert found["false_deaths"] == 0
    assert found["gcs_mb"] < 500
