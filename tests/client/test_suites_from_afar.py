"""The suites of tasks, actors, output, interrupts and cells, by a driver that joined from afar."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.from_afar import SWITCH
from support.places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_TESTS = ROOT / "tests"
# What is left out counts on memory that reader and store share, or on processes of this machine.
_SUITES = {
    "tasks": ("core_worker/test_tasks.py", ""),
    "actors": ("core_worker/test_actors.py", ""),
    "interrupts": ("core_worker/test_cancel.py", ""),
    "puts that are interrupted": ("core_worker/test_leaks.py", "while_they_write or pin_back"),
    "output": ("jupyter_ext/test_output.py", ""),
    "remote cells": ("jupyter_ext/test_remote_cells.py", "not let_objects_go"),
}


@pytest.mark.parametrize("suite", _SUITES)
def test_a_suite_passes_over_a_tunnel(suite: str) -> None:
    path, chosen = _SUITES[suite]
    ended = subprocess.run(
        [Path(sys.executable).with_name("pytest"), str(_TESTS / path), "-q", "-k", chosen],
        env={**os.environ, SWITCH: "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-5000:]
