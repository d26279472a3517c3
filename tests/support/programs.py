"""Programs that are run under `nbray.compat`, or plainly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def run(tmp_path: Path, text: str, *, under: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program, under `nbray.compat` or plainly."""
    program = tmp_path / "program.py"
    program.write_text(text)
    command = [sys.executable, *(["-m", "nbray.compat"] if under else []), str(program), "an", "x"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)


def told(tmp_path: Path, text: str, *, under: bool = True) -> object:
    """What a program prints last, as JSON."""
    done = run(tmp_path, text, under=under)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
