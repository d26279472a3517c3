"""What a workload measures with, and reports to."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any


class MissingApi(Exception):
    """The engine does not have what a workload needs."""


class Bench:
    """What a workload measures with, and reports to."""

    def __init__(self, engine: Any, args: argparse.Namespace) -> None:
        self.engine = engine
        self.cores = os.cpu_count() or 1
        self._pattern = re.compile(args.rows)
        self._seconds: float = args.seconds
        self._samples: int = args.samples
        self._scale: float = args.scale
        self._output = os.fdopen(args.output_fd, "w", buffering=1)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """What every program that measures is told."""
        parser.add_argument("--engine", required=True)
        parser.add_argument("--rows", default="", help="measure only the rows that match this")
        parser.add_argument("--seconds", type=float, default=1.0, help="of one sample of a rate")
        parser.add_argument("--samples", type=int, default=2, help="of each rate")
        parser.add_argument("--scale", type=float, default=1.0, help="of the work that is large")
        parser.add_argument("--output-fd", type=int, required=True)

    def size(self, whole: int) -> int:
        """How much of a work that is large is to be done: ``whole``, or less in a short run."""
        if self._scale != 1:
            self.tell({"part": self._scale})
        return max(1, int(whole * self._scale))

    def times(self, whole: int) -> int:
        """How often what is measured by turns is done: ``whole``, or less in a short run."""
        return whole if self._seconds >= 1 else max(3, whole // 2)

    def wants(self, row: str) -> bool:
        """Whether that row is to be measured."""
        return bool(self._pattern.search(row))

    def start(self, **options: Any) -> None:
        """Start the cluster."""
        self.engine.init(**options)

    def tell(self, line: dict[str, Any]) -> None:
        """Write one line of the report."""
        self._output.write(json.dumps(line) + "\n")

    def report(self, row: str, *samples: float) -> None:
        """Samples of a row that is measured once."""
        self.tell({"row": row, "samples": samples})

    def probe(self, name: str) -> None:
        """Let the other side measure the processes, and wait until it has."""
        self.tell({"probe": name})
        sys.stdin.readline()

    def rate(
        self, row: str, work: Callable[[], Any], count: float = 1, *, gives: Any = ...
    ) -> None:
        """Measure how often per second ``work``, which does ``count`` operations, can be done.

        What its first call returns is compared with ``gives``, where that is told.

        Raises:
            AssertionError: it is another.
        """
        if not self.wants(row):
            return
        begun = time.perf_counter()
        found, calls = work(), 1
        if gives is not ...:
            expect(found, gives)
        del found
        while time.perf_counter() - begun < self._seconds / 2:
            work()
            calls += 1
        step = calls // 10 + 1
        samples = []
        for _ in range(self._samples):
            calls, begun = 0, time.perf_counter()
            while time.perf_counter() - begun < self._seconds:
                for _ in range(step):
                    work()
                calls += step
            samples.append(count * calls / (time.perf_counter() - begun))
        self.report(row, *samples)

    def tail(self, row: str, work: Callable[[], Any], calls: int) -> None:
        """Measure how long single calls of ``work`` take: the middle one, and the longest."""
        if not self.wants(row):
            return
        for _ in range(calls // 10 + 1):
            work()
        times = sorted(seconds_of(work) * 1e3 for _ in range(calls))
        parts = {"median": 0.5, "99th percentile": 0.99, "99.9th percentile": 0.999, "longest": 1.0}
        for kind, part in parts.items():
            self.report(f"{row}, {kind}", times[min(calls - 1, int(calls * part))])

    def need(self, path: str) -> Any:
        """The attribute ``path`` of the engine, its modules imported.

        Raises:
            MissingApi: it is not there.
        """
        found = self.engine
        name = self.engine.__name__
        for part in path.split("."):
            name = f"{name}.{part}"
            if not hasattr(found, part):
                try:
                    importlib.import_module(name)
                except ImportError as error:
                    raise MissingApi(name) from error
            found = getattr(found, part)
        return found


def expect(found: object, wanted: object) -> None:
    """What was measured is what was asked for.

    Raises:
        AssertionError: it is not.
    """
    if found != wanted:
        raise AssertionError(f"{str(found)[:200]} came back instead of {str(wanted)[:200]}")


def seconds_of(work: Callable[[], Any]) -> float:
    """How long ``work`` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
