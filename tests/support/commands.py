"""The command, as a user types it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = "import sys; sys.argv[0] = 'nbray'; from nbray.cli import main; main()"
"""What the script `nbray` does, for a Python that may have no such script beside it."""


def command(*args: str) -> subprocess.CompletedProcess[str]:
    """Run ``nbray ARGS``."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, timeout=100
    )


def start_command(*args: str) -> subprocess.Popen[str]:
    """Start ``nbray ARGS``."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def read_until(running: subprocess.Popen[str], text: str) -> None:
    """Read what it prints up to a line with ``text``; fail with all that it said if it ends."""
    assert running.stdout is not None
    lines = [""]
    while text not in lines[-1]:
        lines.append(running.stdout.readline())
        assert lines[-1], f"{text!r} is not in what it said: {lines}\n{running.communicate()[1]}"
