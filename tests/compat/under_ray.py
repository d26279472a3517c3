"""Run the programs of `tests/compat/programs` under Ray: do they end in the same line?

``RAY_PYTHON=PYTHON python tests/compat/under_ray.py [name ...]``, PYTHON being one that has Ray.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from test_programs import LAST_LINES, PROGRAMS


def last_line(name: str, python: str) -> str:
    """The last line that the program prints under Ray; its errors when it fails."""
    text = (PROGRAMS / f"{name}.py").read_text()
    text = text.replace("import nbray as ray", "import ray").replace("from nbray", "from ray")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / f"{name}.py"
        program.write_text(text)
        ran = subprocess.run([python, program], capture_output=True, text=True, timeout=300)
    if ran.returncode:
        return f"exit code {ran.returncode}: {ran.stderr[-2000:]}"
    return ran.stdout.splitlines()[-1]


def main() -> None:
    python = os.environ["RAY_PYTHON"]
    differ = 0
    for name in sys.argv[1:] or LAST_LINES:
        found = last_line(name, python)
        same = found == LAST_LINES[name]
        differ += not same
        print(f"{name}: {'the same' if same else found}", flush=True)
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
