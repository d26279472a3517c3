"""How long `import` takes in a new process that has done nothing else, its bytecode compiled."""

from __future__ import annotations

import argparse
import subprocess
from importlib import metadata

from benchmarks import engines
from benchmarks.bench import Bench

MODULES = {
    "nbray": "nbray", "ray": "ray", "processpool": "concurrent.futures.process", "loky": "loky",
    "dask": "distributed", "ipyparallel": "ipyparallel",
}  # fmt: skip
_TIMED = """
import sys, time
begun = time.perf_counter()
__import__(sys.argv[1])
print(time.perf_counter() - begun)
print(sys.argv[1] in sys.modules)
"""


def main() -> None:
    """Time it for one engine."""
    parser = argparse.ArgumentParser()
    Bench.add_arguments(parser)
    parser.add_argument("--outside")
    args = parser.parse_args()
    engine, bench = engines.BY_NAME[args.engine](), Bench(None, args)
    if args.engine == "nbray":
        bench.tell({"version": metadata.version("nbray")})
    seconds = [_seconds(engine.python, MODULES[args.engine]) for _ in range(bench.times(10) + 1)]
    bench.report("import", *seconds[1:])  # the first has read the files


def _seconds(python: str, module: str) -> float:
    # Without the folder that a program given by -c is looked up in: what is installed is meant.
    done = subprocess.run(
        [python, "-P", "-c", _TIMED, module], check=True, capture_output=True, text=True
    )
    seconds, there = done.stdout.split()
    if there != "True":
        raise AssertionError(f"{module} was not imported")
    return float(seconds)


if __name__ == "__main__":
    main()
