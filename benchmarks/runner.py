"""Runs one workload of one engine in a process of its own, and collects what it reports."""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import commands, kin
from benchmarks.engines import ROOT, Engine
from benchmarks.memory import ProcessMemory, measure_tree

APART = frozenset({"commands", "from_afar", "imports", "links", "nodes"})
"""Workloads that are modules of this package of their own."""
OF_THIS_INTERPRETER = frozenset({"imports", "links", "nodes"})
SECLUDED = frozenset({"commands", "from_afar"})

IDLE = "idle cluster"
_IDLE_S = 20.0  # a period of the slowest timers, of which a part of a per cent is asked
_IDLE_PARTS = {
    "driver": "driver", "gcs": "GCS", "raylet": "raylet", "dashboard": "dashboard",
    "worker": "workers", "template": "template of workers",
}  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds: of one sample of a rate.
        samples: of a rate in one round.
        scale: of the work that is large.
        timeout_s: a workload that takes longer is left.
        scales: of single workloads, instead of ``scale``.
        timeouts_s: of single workloads, instead of ``timeout_s``.
    """

    seconds: float = 1.0
    samples: int = 2
    scale: float = 1.0
    timeout_s: float = 1800.0
    scales: Mapping[str, float] = field(default_factory=dict)
    timeouts_s: Mapping[str, float] = field(default_factory=dict)

    def scale_of(self, workload: str) -> float:
        """The part of its whole size at which ``workload`` is measured."""
        return self.scales.get(workload, self.scale)

    def timeout_of(self, workload: str) -> float:
        """After how many seconds ``workload`` is left."""
        return self.timeouts_s.get(workload, self.timeout_s)


@dataclass
class Outcome:
    """What one run of a workload gave.

    Attributes:
        samples: the figures by row.
        processes: the memory of each process, where the workload had it measured.
        problem: why it failed; empty when it did not.
        missing: what the engine does not have, so that there was nothing to measure.
        left: why it was left before its end; empty when it was not.
        part: of its whole size that was measured.
    """

    version: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
    processes: list[ProcessMemory] = field(default_factory=list)
    problem: str = ""
    missing: str = ""
    left: str = ""
    part: float = 1.0


def run(
    engine: Engine, workload: str, pattern: str, effort: Effort, at_most_s: float = math.inf
) -> Outcome:
    """Run ``workload``, measuring the rows that match ``pattern``; it ends, in any case."""
    folder = Path(tempfile.mkdtemp(prefix="nbb"))
    timeout_s = min(effort.timeout_of(workload), at_most_s)
    try:
        return _run_workload(engine, workload, pattern, effort, folder, timeout_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- workloads --------------------


def _run_workload(
    engine: Engine, workload: str, pattern: str, effort: Effort, folder: Path, timeout_s: float
) -> Outcome:
    outcome = Outcome()
    read_end, write_end = os.pipe()
    log, before = folder / "log", kin.present()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            _command_line(engine, workload, pattern, effort, write_end),
            cwd=ROOT, env=engine.environment(folder), stdin=subprocess.PIPE, stdout=output,
            stderr=output, pass_fds=[write_end], start_new_session=True,
            preexec_fn=kin.end_with_parent,
        )  # fmt: skip
    os.close(write_end)
    try:
        _collect(process, read_end, outcome, time.monotonic() + timeout_s)
    except (TimeoutError, subprocess.TimeoutExpired):
        outcome.left = f"over {timeout_s:.0f} s"
    finally:
        os.close(read_end)
        kin.end(process, before)
        assert process.stdin is not None
        process.stdin.close()
    if not outcome.problem and not outcome.left and process.returncode:
        outcome.problem = f"exit status {process.returncode}"
    if outcome.problem:
        last = log.read_text(errors="replace").strip().splitlines()[-15:]
        outcome.problem += "\n" + "\n".join(last)
    return outcome


def _command_line(
    engine: Engine, workload: str, pattern: str, effort: Effort, write_end: int
) -> list[str]:
    module, python, extra = engine.module, engine.python, [workload]
    if workload in APART:
        module, extra = f"benchmarks.{workload}", ["--outside", commands.namespace()]
    if workload in OF_THIS_INTERPRETER:
        python = sys.executable
    own = [
        python, "-m", module, *extra, "--engine", engine.name,
        "--rows", pattern, "--seconds", str(effort.seconds), "--samples", str(effort.samples),
        "--scale", str(effort.scale_of(workload)), "--output-fd", str(write_end),
    ]  # fmt: skip
    return commands.secluded(own) if workload in SECLUDED and engine.stops_others else own


def _collect(
    process: subprocess.Popen[bytes], read_end: int, outcome: Outcome, deadline: float
) -> None:
    """Take the lines of the report until its pipe closes.

    Raises:
        TimeoutError: it is still open at ``deadline``.
    """
    received = b""
    while True:
        left = deadline - time.monotonic()
        # A worker that outlives the driver for a moment may hold the pipe too.
        if left <= 0:
            raise TimeoutError
        if not select.select([read_end], [], [], min(left, 0.5))[0]:
            if process.poll() is not None:
                return
            continue
        part = os.read(read_end, 65536)
        if not part:
            process.wait(max(1.0, left))
            return
        *lines, received = (received + part).split(b"\n")
        for line in lines:
            try:
                _take(process, json.loads(line), outcome)
            except (psutil.Error, OSError):
                if process.poll() is None:  # else its exit status says what happened
                    raise


def _take(process: subprocess.Popen[bytes], line: dict[str, Any], outcome: Outcome) -> None:
    if "row" in line:
        outcome.samples.setdefault(line["row"], []).extend(line["samples"])
    elif "version" in line:
        outcome.version = line["version"]
    elif "part" in line:
        outcome.part = line["part"]
    elif "missing" in line:
        outcome.missing = line["missing"]
    elif "problem" in line:
        outcome.problem = line["problem"]
    elif "probe" in line:
        outcome.processes = before = measure_tree(process.pid)
        if line["probe"] == IDLE:
            time.sleep(_IDLE_S)
            outcome.processes = measure_tree(process.pid)
            outcome.samples.update(part_of_a_core(before, outcome.processes))
        outcome.samples.update(summarize(line["probe"], outcome.processes))
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()


def part_of_a_core(
    before: list[ProcessMemory], after: list[ProcessMemory]
) -> dict[str, list[float]]:
    """What the processes used of a core in between, all together."""
    began = {process.pid: process.seconds for process in before}
    used = sum(process.seconds - began.get(process.pid, 0.0) for process in after)
    return {f"{IDLE}, part of a core": [used / _IDLE_S]}


def summarize(probe: str, processes: list[ProcessMemory]) -> dict[str, list[float]]:
    """The rows of a probe, from the memory of the processes."""
    peaks: dict[str, float] = {}
    for process in processes:
        peaks[process.role] = max(peaks.get(process.role, 0.0), process.peak)
    if probe == IDLE:
        of_role: dict[str, list[float]] = {}
        for process in processes:
            of_role.setdefault(process.role, []).append(process.pss)
        return {
            probe: [sum(process.pss for process in processes)],
            f"{probe}, shared memory": [sum(process.shared for process in processes)],
            **{
                f"{probe}, {name}": [sum(of_role.get(role, [0.0]))]
                for role, name in _IDLE_PARTS.items()
            },
        }
    names = {"driver": "driver", "gcs": "GCS", "raylet": "raylet"}
    return {f"{probe}, peak of the {name}": [peaks.get(role, 0.0)] for role, name in names.items()}
