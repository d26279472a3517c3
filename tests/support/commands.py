"""The command, as a user types it."""

from __future__ import annotations

import subprocess
import sys


def command(*args: str) -> subprocess.CompletedProcess[str]:
    """Run ``nbray ARGS``."""
    program = "import sys; sys.argv[0] = 'nbray'; from nbray.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60
    )
