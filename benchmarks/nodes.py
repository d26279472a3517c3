"""The control plane under a thousand simulated nodes: `tests/scenarios/many_nodes.py`, as rows."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from importlib import metadata

from benchmarks.bench import Bench
from benchmarks.engines import ROOT

_ROWS = {
    "1,000 simulated nodes joined": "all_know_s",
    "1,000 simulated nodes, idle, part of a core": "idle_core",
    "1,000 simulated nodes, a change known to all": "room_told_s",
}


def main() -> None:
    """Run it, and report."""
    parser = argparse.ArgumentParser()
    Bench.add_arguments(parser)
    parser.add_argument("--outside")
    args = parser.parse_args()
    bench = Bench(None, args)
    bench.tell({"version": metadata.version("nbray"), "python": platform.python_version()})
    count = max(10, bench.size(1000))
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
        bench.report(row, figures[name])


if __name__ == "__main__":
    main()
