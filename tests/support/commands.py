"""The command, as a user types it."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = "import sys; sys.argv[0] = 'nbray'; from nbray.cli import main; main()"


def command(*args: str) -> subprocess.CompletedProcess[str]:
    """Run ``nbray ARGS``."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *args], capture_output=True, text=True, timeout=100
    )


def start_command(*args: str) -> subprocess.Popen[str]:
    """Start ``nbray ARGS``."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
