"""The control plane under a thousand simulated nodes: `tests/scenarios/many_nodes.py`, as rows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib import metadata

from benchmarks.engines import ROOT

_ROWS = {
    "1,000 simulated nodes joined": "all_know_s",
    "1,000 simulated nodes, idle, part of a core": "idle_core",
    "1,000 simulated nodes, a change known to all": "room_told_s",
}


def main() -> None:
    """Run it, and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--output-fd", type=int, required=True)
    args = parser.parse_args()
    output = os.fdopen(args.output_fd, "w", buffering=1)
    facts = {"version": metadata.version("nbray"), "python": platform.python_version()}
    output.write(json.dumps(facts) + "\n")
    count = max(10, int(1000 * args.scale))
    seconds = 10.0 if args.scale >= 1 else 1.0
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "tests" / "scenarios" / "many_nodes.py"),
            "--nodes", str(count), "--seconds", str(seconds),
        ],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    figures = json.loads(done.stdout)
    if figures["false_deaths"] or figures["nodes"] != count:
        raise AssertionError(f"nodes were declared dead that lived: {figures}")
    for row, name in _ROWS.items():
        output.write(json.dumps({"row": row, "samples": [figures[name]]}) + "\n")


if __name__ == "__main__":
    main()
