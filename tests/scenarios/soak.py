"""Soak: mixed work for minutes, and whether everything levels off.

``python tests/scenarios/soak.py --minutes 30`` runs it on a cluster of two nodes. Work of all kinds
is done in rounds, the same each time; after every few of them, when nothing is left to do, each
process is measured: memory of its own, threads, descriptors, sockets; and what the GCS, the stores
and the driver keep. Over the second half of the run nothing may grow.

The bounds: memory is judged by a line fitted to the second half, so that one sample says little. A
leak of 100 bytes a task would come to 20 MB in a half of 10 minutes at 300 tasks a second. What
may come and go are the allocator's arenas, a few MB in a process, and caches that fill up: rings
of ended jobs, actors and tasks take some KB an entry until they are full. So 6 MB and a twentieth
are allowed over a half of 10 minutes or less; descriptors, sockets and threads come in ones and
twos for processes that have just come or not yet gone.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import nbray
from nbray.core_worker.current import find_core
from nbray.driver.joining import find_session
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import RunningNode, join
from nbray.util.state import list_actors, list_jobs

# A ring that is still filling looks like a leak: these fill up in the first rounds.
SMALL_RINGS = {"NBRAY_TASK_EVENTS_KEPT": "1000"}
MB = 1 << 20
WAIT_S = 120

DRIVER = """
import nbray, numpy as np
nbray.init("auto")
@nbray.remote
def work(array):
    print("from another driver")
    return array * 2
base = nbray.put(np.ones(100_000))
assert all(x.sum() == 200_000 for x in nbray.get([work.remote(base) for _ in range(8)]))
"""


# --- the work --------------------


@nbray.remote
def small(number: int) -> int:
    return number + 1


@nbray.remote
def nested(count: int) -> int:
    return sum(nbray.get([small.remote(i) for i in range(count)]))


@nbray.remote
def total(array: np.ndarray) -> float:
    return float(array.sum())


@nbray.remote
def pass_on(refs: list[nbray.ObjectRef]) -> list[nbray.ObjectRef]:
    return [small.remote(1), nbray.put(np.zeros(20_000)), *refs]


@nbray.remote
def items(count: int) -> Any:
    for number in range(count):
        yield np.full(20_000, number)


@nbray.remote(max_retries=0)
def fails(how: str) -> None:
    if how == "raise":
        raise ValueError("on purpose")
    os._exit(3)


@nbray.remote
def talks(lines: int) -> None:
    for number in range(lines):
        print(f"line {number} of {os.getpid()}")


@nbray.remote(num_cpus=0)
class Keeper:
    """Keeps what it is given until it gets the next."""

    def __init__(self, first: Any = None) -> None:
        self.kept = first

    def keep(self, refs: list[nbray.ObjectRef]) -> int:
        self.kept = refs
        return len(refs)

    def read(self) -> float:
        return float(sum(np.sum(nbray.get(ref)) for ref in self.kept))


class Work:
    """A round does each kind of work once."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.done: Counter[str] = Counter()
        self.lasting = Keeper.remote()
        self.names = 0

    def round(self) -> None:
        """Everything once, in a random order."""
        kinds: list[Callable[[], None]] = [
            self.tasks, self.nested, self.objects, self.refs, self.streams, self.failures,
            self.actors, self.named, self.output,
        ]  # fmt: skip
        self.rng.shuffle(kinds)
        for kind in kinds:
            kind()
            self.done[kind.__name__] += 1

    def tasks(self) -> None:
        count = self.rng.randrange(100, 400)
        refs = [small.remote(i) for i in range(count)]
        assert sum(nbray.get(refs, timeout=WAIT_S)) == count * (count + 1) // 2

    def nested(self) -> None:
        refs = [nested.remote(10) for _ in range(4)]
        assert nbray.get(refs, timeout=WAIT_S) == [55] * 4

    def objects(self) -> None:
        for _ in range(20):
            nbray.put(self.rng.random())
        large = [nbray.put(np.ones(self.rng.randrange(20_000, 1_000_000))) for _ in range(8)]
        found = nbray.get([total.remote(ref) for ref in large], timeout=WAIT_S)
        assert found == [float(len(nbray.get(ref, timeout=WAIT_S))) for ref in large]

    def refs(self) -> None:
        inner = nbray.put(np.ones(30_000))
        made, put, same = nbray.get(pass_on.remote([inner]), timeout=WAIT_S)
        assert nbray.get(made, timeout=WAIT_S) == 2
        assert not nbray.get(put, timeout=WAIT_S).any()
        assert nbray.get(self.lasting.keep.remote([same, made]), timeout=WAIT_S) == 2
        assert nbray.get(self.lasting.read.remote(), timeout=WAIT_S) == 30_002
        nbray.get(self.lasting.keep.remote([]), timeout=WAIT_S)

    def streams(self) -> None:
        found = [int(nbray.get(ref, timeout=WAIT_S)[0]) for ref in items.remote(5)]
        assert found == list(range(5))
        abandoned = items.remote(5)
        next(abandoned)

    def failures(self) -> None:
        for how, expected in (("raise", ValueError), ("exit", nbray.exceptions.WorkerCrashedError)):
            try:
                nbray.get(fails.remote(how), timeout=WAIT_S)
            except expected:
                continue
            raise AssertionError(f"a task that had to fail by {how} did not")

    def actors(self) -> None:
        first = [nbray.put(np.ones(20_000))]
        made = [Keeper.remote(first) for _ in range(2)]
        assert nbray.get([a.read.remote() for a in made], timeout=WAIT_S) == [20_000.0] * 2

    def named(self) -> None:
        self.names += 1
        actor = Keeper.options(name=f"keeper-{self.names}").remote([])
        again = nbray.get_actor(f"keeper-{self.names}")
        assert nbray.get(again.read.remote(), timeout=WAIT_S) == 0
        nbray.kill(actor)

    def output(self) -> None:
        nbray.get([talks.remote(50) for _ in range(2)], timeout=WAIT_S)

    def another_driver(self) -> None:
        subprocess.run([sys.executable, "-c", DRIVER], check=True, timeout=WAIT_S,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        self.done["drivers"] += 1


# --- what is measured --------------------


@dataclass
class Series:
    """One quantity over time; ``slack`` is what it may grow by over the second half."""

    unit: str
    slack: float
    share: float = 0.0
    points: list[tuple[float, float]] = field(default_factory=list)

    def growth(self) -> float:
        """By a line through the second half, from its beginning to its end."""
        half = self.points[len(self.points) // 2 :]
        times, values = np.array([t for t, _ in half]), np.array([v for _, v in half])
        slope = float(np.polyfit(times - times[0], values, 1)[0])
        return slope * float(times[-1] - times[0])

    def allowed(self) -> float:
        """In its unit."""
        return self.slack + self.share * max(value for _, value in self.points)


def own_memory(process: psutil.Process) -> float:
    """MB that are no other process's: what is shared (the arena, libraries) is not counted."""
    memory = process.memory_info()
    return (memory.rss - memory.shared) / MB


def sockets(process: psutil.Process) -> int:
    count = 0
    for fd in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/{process.pid}/fd/{fd}").startswith("socket:")
    return count


class Meter:
    """Samples the cluster."""

    def __init__(self, head: list[int], node: RunningNode) -> None:
        self.fixed = {
            "driver": os.getpid(), "GCS": head[0], "head raylet": head[1],
            "second raylet": node.children[-1].pid,
        }  # fmt: skip
        self.series: dict[str, Series] = {}
        self.started = time.monotonic()

    def _add(self, name: str, value: float, unit: str, slack: float, share: float = 0.0) -> None:
        series = self.series.setdefault(name, Series(unit, slack, share))
        series.points.append((time.monotonic() - self.started, float(value)))

    def sample(self) -> None:
        """Measure everything; to be called when nothing runs."""
        gc.collect()
        for name, pid in self.fixed.items():
            process = psutil.Process(pid)
            self._add(f"{name}: memory", own_memory(process), "MB", 6.0, 0.05)
            self._add(f"{name}: descriptors", process.num_fds(), "", 6)
            self._add(f"{name}: sockets", sockets(process), "", 6)
            self._add(f"{name}: threads", process.num_threads(), "", 3)
        workers = []
        for name in ("head raylet", "second raylet"):
            for child in psutil.Process(self.fixed[name]).children():
                if "nbray.core_worker.run.template" in child.cmdline():
                    workers += child.children()
        self._add("workers: number", len(workers), "", 4)
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = max(own_memory(worker) for worker in workers)
            self._add("workers: memory of the largest", memory, "MB", 6.0, 0.05)
            fds = max(worker.num_fds() for worker in workers)
            self._add("workers: most descriptors", fds, "", 6)
        self._add("GCS: actors", len(list_actors(limit=10_000)), "", 1000)
        self._add("GCS: jobs", len(list_jobs(limit=10_000)), "", 1000)
        rows = [row for row in nbray.nodes() if row["Alive"]]
        for number, row in enumerate(rows):
            self._add(f"store {number}: used", row["Stats"]["store_used"] / MB, "MB", 1.0)
            self._add(f"store {number}: objects", row["Stats"]["objects"], "", 1)
        core = find_core()
        assert core is not None
        self._add("driver: references", len(core.table), "", 10)

    def table(self) -> str:
        """The quantities, from the beginning to the end."""
        head = f"{'':34}{'begin':>10}{'middle':>10}{'end':>10}{'growth':>10}{'allowed':>10}"
        lines = [f"{head}   (of the second half)"]
        for name, series in self.series.items():
            values = [value for _, value in series.points]
            row = [values[0], values[len(values) // 2], values[-1], series.growth()]
            lines.append(
                f"{name:34}"
                + "".join(f"{value:>10.1f}" for value in [*row, series.allowed()])
                + f" {series.unit}"
            )
        return "\n".join(lines)

    def too_much(self) -> list[str]:
        """What did not level off."""
        return [
            f"{name} grew by {series.growth():.1f} {series.unit}"
            for name, series in self.series.items()
            if series.growth() > series.allowed()
        ]


# --- a run --------------------


def settle() -> None:
    """Wait until nothing runs and nothing is left to free."""
    deadline = time.monotonic() + WAIT_S
    while True:
        rows = [row for row in nbray.nodes() if row["Alive"]]
        objects = sum(row["Stats"].get("objects", 1) for row in rows)
        free = nbray.cluster_resources() == nbray.available_resources()
        if len(rows) == 2 and not objects and free:
            return
        assert time.monotonic() < deadline, f"{objects} objects are left; free: {free}"
        time.sleep(0.05)


def run(seconds: float, seed: int, samples: int = 60) -> tuple[Counter[str], str]:
    """Work for so long; what was done, and the table.

    Raises:
        AssertionError: a result was wrong, or something did not level off.
    """
    rng = random.Random(seed)
    nbray.init(num_cpus=2, object_store_memory=200 * MB, include_dashboard=False)
    head, info = find_session("auto")
    node = join(
        info["gcs_address"], NodeOptions({"CPU": 2}, object_store_memory=150 * MB),
        token=head.token, fate_shared=True,
    )  # fmt: skip
    try:
        work, meter = Work(rng), Meter(info["pids"], node)
        work.round()  # what is imported and made once
        started = time.monotonic()
        sampled = 0
        while (passed := time.monotonic() - started) < seconds:
            work.round()
            if passed >= sampled * seconds / samples:
                sampled += 1
                if sampled % 5 == 0:
                    work.another_driver()
                settle()
                meter.sample()
        table = meter.table()
        problems = meter.too_much()
        assert not problems, f"seed {seed}: {'; '.join(problems)}\n{table}"
        return work.done, table
    finally:
        node.stop()
        nbray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nbt") as folder:
        os.environ["NBRAY_TMPDIR"] = str(Path(folder) / "sessions")
        os.environ.update(SMALL_RINGS)
        print(f"seed {args.seed}", flush=True)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            done, table = run(args.minutes * 60, args.seed)
    print(table)
    print("rounds of each kind:", dict(done))


if __name__ == "__main__":
    main()
