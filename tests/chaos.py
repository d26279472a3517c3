"""Chaos: a workload whose every result is checked, while processes are killed, stopped and cut off.

``python tests/chaos.py --seed 7 --seconds 60`` runs one; what is done, and when, follows from the
seed. What may be retried has to give the right result; what may not has to fail with the
exception that says why; nothing may hang; and in the end nothing may be left: no process, no
file, no object, no reference, no resource that is taken.

The recovery from a fault lasts until the first piece of work is done that began after it, or after
its end if the process was stopped for a while.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import nbray
from nbray import exceptions as ex
from nbray.common.session import Session
from nbray.driver import find_session
from nbray.launcher.local import RunningNode, join
from nbray.util.state import StateApiException, list_objects

MB = 1 << 20
DEADLINE_S = float(os.environ.get("NBRAY_CHAOS_DEADLINE_S", 120))
NODES = 2

OTHER_DRIVER = """
import nbray, numpy as np, time
nbray.init("auto")
@nbray.remote
def work(array):
    time.sleep(0.05)
    return array * 2
base = nbray.put(np.ones(200_000))
print("up", flush=True)
while True:
    nbray.get([work.remote(base) for _ in range(8)])
"""


# --- the workload --------------------


@nbray.remote(max_retries=-1)
def digest(shared: np.ndarray, number: int) -> str:
    time.sleep(0.005 * (number % 4))
    return hashlib.sha256(shared.tobytes() + str(number).encode()).hexdigest()


@nbray.remote(max_retries=-1, num_cpus=0.5)
def tree(depth: int, number: int) -> int:
    if depth == 0:
        return number
    return sum(nbray.get([tree.remote(depth - 1, number * 2 + side) for side in (0, 1)]))


@nbray.remote(max_retries=-1)
def grow(array: np.ndarray, by: float) -> np.ndarray:
    return array + by


@nbray.remote(max_retries=-1)
def pass_on(refs: list[nbray.ObjectRef]) -> list[nbray.ObjectRef]:
    return [digest.remote(refs[0], 17), *refs]


@nbray.remote(max_retries=-1)
def block(number: int, count: int) -> np.ndarray:
    return np.full(count, number)


@nbray.remote(max_retries=0)
def once(number: int) -> int:
    time.sleep(0.02)
    return number * 2


@nbray.remote(max_retries=-1)
def look(refs: list[nbray.ObjectRef], expected: list[int]) -> bool:
    return all((nbray.get(ref) == number).all() for ref, number in zip(refs, expected, strict=True))


@nbray.remote(max_retries=-1)
def stream(count: int) -> Iterator[np.ndarray]:
    for i in range(count):
        yield np.full(30_000, i)


@nbray.remote(num_cpus=0)
class Account:
    """Adds up, and says by which process: a restarted one begins anew."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int) -> tuple[int, int]:
        self.total += amount
        return os.getpid(), self.total


def tree_sum(depth: int, number: int) -> int:
    if depth == 0:
        return number
    return tree_sum(depth - 1, number * 2) + tree_sum(depth - 1, number * 2 + 1)


@dataclass
class Workload:
    """Steps that submit work and check what comes back."""

    rng: random.Random
    say: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    kept: list[tuple[nbray.ObjectRef, float]] = field(default_factory=list)
    blocks: list[tuple[nbray.ObjectRef, int]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared_array = np.arange(150_000)
        self.shared = nbray.put(self.shared_array)
        # What `put` made cannot be made again: it has to be held by who wants its results again.
        self.zeros = nbray.put(np.zeros(50_000))
        self.lasting = Account.options(max_restarts=-1, max_task_retries=-1).remote()
        self.lasting_totals: dict[int, int] = {}
        self.mortal = Account.remote()
        self.mortal_total = 0

    def step(self) -> None:
        """One piece of work, chosen by the seed."""
        chosen = self.rng.choice(
            [self.digests, self.trees, self.chain, self.passing, self.streams, self.accounts,
             self.keep, self.grow_store, self.once]
        )  # fmt: skip
        self.say(f"work: {chosen.__name__}")
        began = time.monotonic()
        chosen()
        for fault in self.faults:
            if fault.recovery is None and fault.over_at <= began:
                fault.recovery = time.monotonic() - fault.over_at
        self.done[chosen.__name__] += 1

    def grow_store(self) -> None:
        """More than the stores hold, which goes to disk; now and then half of it is dropped."""
        number = self.rng.randrange(1000)
        size = self.rng.randrange(100_000, 800_000)
        self.blocks.append((block.remote(number, size), number))
        some = self.rng.sample(self.blocks, min(3, len(self.blocks)))
        refs, numbers = [ref for ref, _ in some], [number for _, number in some]
        assert nbray.get(look.remote(refs, numbers), timeout=DEADLINE_S)
        if len(self.blocks) > 60:
            del self.blocks[:30]

    def once(self) -> None:
        """What may not be run again is right, or says that its process died."""
        numbers = [self.rng.randrange(1000) for _ in range(4)]
        for number, ref in [(number, once.remote(number)) for number in numbers]:
            try:
                assert nbray.get(ref, timeout=DEADLINE_S) == number * 2
            except ex.WorkerCrashedError:
                self.done["a task that runs once died"] += 1

    def digests(self) -> None:
        numbers = [self.rng.randrange(1000) for _ in range(20)]
        refs = [digest.remote(self.shared, number) for number in numbers]
        raw = self.shared_array.tobytes()
        expected = [hashlib.sha256(raw + str(n).encode()).hexdigest() for n in numbers]
        assert nbray.get(refs, timeout=DEADLINE_S) == expected

    def trees(self) -> None:
        number = self.rng.randrange(100)
        assert nbray.get(tree.remote(2, number), timeout=DEADLINE_S) == tree_sum(2, number)

    def chain(self) -> None:
        ref, total = self.zeros, 0.0
        for _ in range(5):
            by = float(self.rng.randrange(10))
            ref, total = grow.remote(ref, by), total + by
        assert (nbray.get(ref, timeout=DEADLINE_S) == total).all()

    def passing(self) -> None:
        inner, outer = nbray.get(pass_on.remote([self.shared]), timeout=DEADLINE_S)
        raw = self.shared_array.tobytes()
        try:
            found = nbray.get(inner, timeout=DEADLINE_S)
        except ex.OwnerDiedError:
            self.done["the owner of an inner ref died"] += 1  # its worker was killed
        else:
            assert found == hashlib.sha256(raw + b"17").hexdigest()
        assert len(nbray.get(outer, timeout=DEADLINE_S)) == len(self.shared_array)

    def streams(self) -> None:
        count = self.rng.randrange(1, 6)
        items = [int(nbray.get(ref, timeout=DEADLINE_S)[0]) for ref in stream.remote(count)]
        assert items == list(range(count))

    def accounts(self) -> None:
        amounts = [self.rng.randrange(1, 10) for _ in range(10)]
        for pid, total in nbray.get(
            [self.lasting.add.remote(a) for a in amounts], timeout=DEADLINE_S
        ):
            before = self.lasting_totals.get(pid, 0)
            assert before < total, f"process {pid} of the actor went back: {before}, {total}"
            self.lasting_totals[pid] = total
        try:
            for amount in amounts:
                _, total = nbray.get(self.mortal.add.remote(amount), timeout=DEADLINE_S)
                self.mortal_total += amount
                assert total == self.mortal_total
        except ex.ActorDiedError:
            self.done["a mortal actor died"] += 1
            self.mortal, self.mortal_total = Account.remote(), 0

    def keep(self) -> None:
        value = self.rng.random()
        self.kept.append((grow.remote(self.zeros, value), value))
        if len(self.kept) > 12:
            ref, expected = self.kept.pop(self.rng.randrange(len(self.kept)))
            assert (nbray.get(ref, timeout=DEADLINE_S) == expected).all()

    def finish(self) -> None:
        """Check and drop what is kept."""
        for ref, expected in self.kept:
            assert (nbray.get(ref, timeout=DEADLINE_S) == expected).all()
        self.kept.clear()
        self.blocks.clear()
        del self.shared, self.zeros, self.lasting, self.mortal


# --- the faults --------------------


@dataclass
class Fault:
    """One fault: over at that time (monotonic), and for how long the work felt it (seconds)."""

    kind: str
    over_at: float
    recovery: float | None = None


@dataclass
class Faults:
    """What is done to the cluster, one fault at a time."""

    rng: random.Random
    say: Callable[[str], None]
    nodes: list[RunningNode]
    start_node: Callable[[], RunningNode]
    head_pids: tuple[int, ...]
    head: Session
    done: list[Fault] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    failed: BaseException | None = None
    driver: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run, name="faults")

    def run(self) -> None:
        """Strike at random times until `finish`, in a thread of its own."""
        try:
            while not self.over.wait(self.rng.uniform(0.1, 1.5)):
                self._replace_dead_nodes()
                self.strike()
        except BaseException as error:
            self.failed = error

    def strike(self) -> None:
        """One fault, chosen by the seed."""
        chosen = self.rng.choice(
            [self.kill_worker, self.kill_worker, self.kill_node, self.stop_worker, self.stop_raylet,
             self.kill_driver, self.stop_driver, self.kill_gcs, self.stop_gcs, self.cut]
        )  # fmt: skip
        with contextlib.suppress(psutil.NoSuchProcess):
            chosen()

    def _note(self, what: str, process: psutil.Process) -> None:
        self.done.append(Fault(what, time.monotonic()))
        self.say(f"{what}: pid {process.pid}")

    def _workers(self) -> list[psutil.Process]:
        raylets = [*self.head_pids, *(node.children[-1].pid for node in self.nodes)]
        found = []
        for pid in raylets:
            for child in psutil.Process(pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.ppid() not in raylets:  # not the template
                        found.append(child)
        return sorted(found, key=lambda process: process.pid)

    def kill_worker(self) -> None:
        workers = self._workers()
        if workers:
            victim = self.rng.choice(workers)
            self._note("kill a worker", victim)
            victim.kill()

    def stop_worker(self) -> None:
        workers = self._workers()
        if workers:
            victim = self.rng.choice(workers)
            self._note("stop a worker for a while", victim)
            self._stop_for_a_while(victim, self.rng.uniform(0.05, 3.0))

    def _gcs(self) -> psutil.Process:
        return psutil.Process(self.head.read_info()["pids"][0])

    def kill_gcs(self) -> None:
        victim = self._gcs()
        self._note("kill the GCS", victim)
        victim.kill()

    def stop_gcs(self) -> None:
        victim = self._gcs()
        self._note("stop the GCS for a while", victim)
        self._stop_for_a_while(victim, self.rng.uniform(0.1, 5.0))

    def stop_raylet(self) -> None:
        victim = psutil.Process(self.rng.choice(self.nodes).children[-1].pid)
        self._note("stop a raylet for a while", victim)
        # The longer ones are declared dead meanwhile, and have to leave.
        self._stop_for_a_while(victim, self.rng.uniform(0.1, 5.0))

    def _stop_for_a_while(self, victim: psutil.Process, seconds: float) -> None:
        victim.suspend()
        try:
            self.over.wait(seconds)
        finally:
            victim.resume()
            self.done[-1].over_at = time.monotonic()

    def stop_driver(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            victim = psutil.Process(self.driver.pid)
            self._note("stop a driver for a while", victim)
            self._stop_for_a_while(victim, self.rng.uniform(0.1, 3.0))

    def cut(self) -> None:
        """A connection between two nodes breaks, as a firewall or a router breaks one."""
        victim = psutil.Process(self.rng.choice(self.nodes).children[-1].pid)
        found = [
            c
            for process in [victim, *victim.children(recursive=True)]
            for c in process.net_connections("tcp")
            if c.status == psutil.CONN_ESTABLISHED
        ]
        if found and shutil.which("ss"):
            chosen = self.rng.choice(sorted(found, key=lambda c: (c.laddr, c.raddr)))
            self._note("cut a connection", victim)
            subprocess.run(
                ["ss", "-K", "src", chosen.laddr.ip, "sport", "=", str(chosen.laddr.port),
                 "dst", chosen.raddr.ip, "dport", "=", str(chosen.raddr.port)],
                check=False, capture_output=True,
            )  # fmt: skip

    def _replace_dead_nodes(self) -> None:
        for node in list(self.nodes):
            if psutil.Process(node.children[-1].pid).status() == psutil.STATUS_ZOMBIE:
                self.say("a node has left, another takes its place")
                node.stop()
                self.nodes.remove(node)
                self.nodes.append(self.start_node())

    def kill_node(self) -> None:
        node = self.nodes.pop(self.rng.randrange(len(self.nodes)))
        raylet = psutil.Process(node.children[-1].pid)
        self._note("kill a node", raylet)
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        node.stop()
        self.nodes.append(self.start_node())

    def kill_driver(self) -> None:
        if self.driver is None or self.driver.poll() is not None:
            self.driver = subprocess.Popen(
                [sys.executable, "-c", OTHER_DRIVER], stdout=subprocess.PIPE
            )
            assert self.driver.stdout is not None
            self.driver.stdout.readline()
            return
        self._note("kill a driver", psutil.Process(self.driver.pid))
        self._end_driver()

    def _end_driver(self) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()
            assert self.driver.stdout is not None
            self.driver.stdout.close()
            self.driver = None

    def finish(self) -> None:
        """No more faults; all nodes are there again."""
        self.over.set()
        self.thread.join(60.0)
        assert not self.thread.is_alive(), "a fault hangs"
        self._end_driver()
        if self.failed is not None:
            raise self.failed


# --- a run --------------------


def wait_for(condition: Callable[[], Any], what: Callable[[], str], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what()}"
        time.sleep(0.05)


def run(seed: int, seconds: float) -> tuple[list[Fault], Counter[str]]:
    """One run on a cluster of three nodes; the faults and the work that were done.

    Raises:
        AssertionError: a result was wrong, something hung, or something was left.
    """
    started = time.monotonic()
    story: list[str] = []

    def say(text: str) -> None:
        story.append(f"{time.monotonic() - started:7.2f} s  {text}")

    nbray.init(num_cpus=2, object_store_memory=150 * MB)
    head, info = find_session("auto")
    nodes: list[RunningNode] = []

    def start_node() -> RunningNode:
        return join(
            info["gcs_address"], resources={"CPU": 2}, token=head.token, fate_shared=True,
            object_store_memory=80 * MB,
        )  # fmt: skip

    rng = random.Random(seed)
    try:
        nodes.extend(start_node() for _ in range(NODES))
        faults = Faults(
            random.Random(rng.random()),
            say,
            nodes,
            start_node,
            (psutil.Process(info["pids"][1]).pid,),
            head,
        )
        work = Workload(random.Random(rng.random()), say, faults=faults.done)
        try:
            faults.thread.start()
            while time.monotonic() - started < seconds and faults.failed is None:
                work.step()
        finally:
            faults.finish()
        work.finish()
        gc.collect()
        wait_for(lambda: _settled(faults), _what_is_taken)
    except BaseException as error:
        tail = "\n".join(story[-40:])
        raise AssertionError(f"seed {seed} failed: {error!r}\nIts story:\n{tail}") from error
    finally:
        for node in nodes:
            node.stop()
        nbray.shutdown()
    root = Path(os.environ["NBRAY_TMPDIR"])
    wait_for(lambda: not _leftovers(root), lambda: f"left over: {_leftovers(root)}")
    return faults.done, work.done


def _leftovers(root: Path) -> list[str]:
    """The files and processes of clusters below ``root``."""
    found = [str(path) for path in root.iterdir()] if root.exists() else []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE:
            line = " ".join(process.info["cmdline"] or ())
            if str(root) in line:
                found.append(f"{process.pid}: {line}")
    return found


def _settled(faults: Faults) -> bool:
    faults._replace_dead_nodes()
    return not _what_is_taken()


def _what_is_taken() -> str:
    rows = [row for row in nbray.nodes() if row["Alive"]]
    left = []
    total, available = nbray.cluster_resources(), nbray.available_resources()
    if total != available:
        left.append(f"resources: {available} of {total}")
    # A GCS that has just come back knows no loads yet.
    objects = sum(row["Stats"].get("objects", 1) for row in rows)
    if objects:
        left.append(f"{objects:.0f} objects in the stores")
    try:
        for row in list_objects(limit=5):
            who = f"pid {row.pid} ({row.call_site})"
            left.append(f"{row.object_id} is {row.reference_type} in {who}")
    except StateApiException as error:
        left.append(str(error))  # a node has died and is still listed
    if len(rows) != NODES + 1:
        left.append(f"{len(rows)} nodes are alive")
    return "; ".join(left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    all_faults: list[Fault] = []
    all_work: Counter[str] = Counter()
    for number in range(args.runs):
        with tempfile.TemporaryDirectory(prefix="nbt") as folder:
            os.environ["NBRAY_TMPDIR"] = str(Path(folder) / "sessions")
            print(f"seed {args.seed + number}", flush=True)
            faults, work = run(args.seed + number, args.seconds)
            all_faults += faults
            all_work += work
    print(report(all_faults))
    print("work:", dict(all_work))


def report(faults: list[Fault]) -> str:
    """How many faults of each kind there were, and the longest recovery."""
    lines = [f"{'faults':>8}  {'longest recovery':>17}"]
    for kind in sorted({fault.kind for fault in faults}):
        times = [fault.recovery for fault in faults if fault.kind == kind]
        longest = max((t for t in times if t is not None), default=0.0)
        lines.append(f"{len(times):8}  {longest:15.2f} s  {kind}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
