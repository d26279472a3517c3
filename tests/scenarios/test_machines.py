"""Two machines: network namespaces with a cable between them, and the command on each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.commands import PROGRAM

from nbray.testing import processes_of, wait_until


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


def _namespaces_work() -> bool:
    if os.getuid() or shutil.which("ip") is None:
        return False
    name = f"nbprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    ip("netns", "del", name)
    return True


pytestmark = pytest.mark.skipif(
    not _namespaces_work(), reason="network namespaces need root and iproute2"
)


@dataclass
class Machine:
    """A network namespace with a folder of its own for sessions."""

    name: str
    address: str
    folder: Path

    def env(self) -> dict[str, str]:
        own = {
            "NBRAY_TMPDIR": str(self.folder), "NBRAY_AUTH_TOKEN": "a cluster of two",
            "NBRAY_HEALTH_CHECK_PERIOD_S": "1", "NBRAY_HEALTH_CHECK_TIMEOUT_S": "1",
        }  # fmt: skip
        return {**os.environ, **own}

    def python(self, *args: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, sys.executable, *args]

    def nbray(self, *args: str) -> str:
        done = subprocess.run(
            self.python("-c", PROGRAM, *args),
            env=self.env(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cable(self, state: str) -> None:
        ip("-n", self.name, "link", "set", f"{self.name}-eth", state)


@pytest.fixture
def machines(session_root: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines that see each other, by nothing but the network."""
    tag = f"nb{os.getpid() % 100_000}"
    pair = [
        Machine(f"{tag}{letter}", f"10.213.7.{number}", session_root / letter)
        for letter, number in (("a", 1), ("b", 2))
    ]
    try:
        for machine in pair:
            ip("netns", "add", machine.name)
        ip(
            "link", "add", f"{pair[0].name}-eth", "netns", pair[0].name, "type", "veth",
            "peer", "name", f"{pair[1].name}-eth", "netns", pair[1].name,
        )  # fmt: skip
        for machine in pair:
            machine.folder.mkdir(mode=0o700)
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev",
               f"{machine.name}-eth")  # fmt: skip
            ip("-n", machine.name, "link", "set", "lo", "up")
            machine.cable("up")
        head, other = pair
        head.nbray("start", "--head", "--port=6379", f"--node-ip-address={head.address}",
                   "--num-cpus=2", "--object-store-memory=200000000")  # fmt: skip
        other.nbray("start", f"--address={head.address}:6379", "--num-cpus=2",
                    '--resources={"far": 4}', "--object-store-memory=200000000")  # fmt: skip
        yield head, other
    finally:
        for machine in pair:
            machine.nbray("stop")
        wait_until(lambda: not processes_of(session_root), "the end of both machines")
        for machine in pair:
            ip("netns", "del", machine.name)
            shutil.rmtree(machine.folder)


WORK_OF_BOTH = """
import nbray, numpy as np
nbray.init("auto")

@nbray.remote
def where():
    print("said by", nbray.get_runtime_context().get_node_id())
    return nbray.get_runtime_context().get_node_id()

@nbray.remote
def nested():
    near = where.options(resources={"near": 0}).remote()
    return nbray.get([near, where.remote()])

@nbray.remote
def total(array):
    return float(array.sum())

@nbray.remote
def make(count):
    return np.ones(count)

@nbray.remote
class Counter:
    def __init__(self): self.n = 0
    def add(self, ref): self.n += len(nbray.get(ref[0])); return self.n

far = {"resources": {"far": 1}}
here = nbray.get_runtime_context().get_node_id()
there = nbray.get(where.options(**far).remote())
nested_places = nbray.get(nested.options(**far).remote())
sent = nbray.get(total.options(**far).remote(nbray.put(np.ones(3_000_000))))
fetched = nbray.get(make.options(**far).remote(3_000_000)).sum()
counter = Counter.options(**far).remote()
counts = [nbray.get(counter.add.remote([nbray.put([0] * 5)])) for _ in range(3)]
known = {node["NodeID"] for node in nbray.nodes()}
far_node, = {n["NodeID"] for n in nbray.nodes() if "far" in n["Resources"]}
assert there == far_node and set(nested_places) <= known
print("RESULT", sent, fetched, counts, len(known))
"""


@pytest.mark.parametrize("driver_on", [0, 1], ids=["driver on the head", "driver on the other"])
def test_tasks_objects_actors_and_output_cross_the_network(
    machines: tuple[Machine, Machine], driver_on: int
) -> None:
    machine = machines[driver_on]
    done = subprocess.run(
        machine.python("-c", WORK_OF_BOTH), env=machine.env(), capture_output=True, text=True,
        timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "RESULT 3000000.0 3000000.0 [5, 10, 15] 2" in done.stdout
    assert "said by" in done.stdout


CUT = """
import nbray, sys, time
nbray.init("auto")

@nbray.remote(max_retries=-1)
def step(i):
    time.sleep(0.02)
    return i, nbray.get_runtime_context().get_node_id()

far_node, = {n["NodeID"] for n in nbray.nodes() if "far" in n["Resources"]}
refs, places, waiting = [], set(), []
while far_node not in places:
    if len(waiting) < 300:  # however late the far node begins, much waits when it is cut off
        waiting += [step.remote(i) for i in range(len(refs), len(refs) + 300)]
        refs += waiting[-300:]
    ready, waiting = nbray.wait(waiting)
    places.update(node for _, node in nbray.get(ready))
print("cut", flush=True)
sys.stdin.readline()
results = nbray.get(refs, timeout=60)
assert [i for i, _ in results] == list(range(len(refs)))
print("all there", flush=True)
"""


@pytest.mark.slow
def test_a_cut_cable_loses_no_result(machines: tuple[Machine, Machine]) -> None:
    head, other = machines
    driver = subprocess.Popen(
        head.python("-c", CUT), env=head.env(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert driver.stdout is not None
    first = driver.stdout.readline()
    assert first == "cut\n", first + "".join(driver.communicate(timeout=60))
    other.cable("down")
    out, err = driver.communicate("\n", timeout=90)
    assert out == "all there\n", err
    wait_until(lambda: "dead" in head.nbray("status"), "the word on the far node")


OUT = """
import nbray, sys, time
nbray.init("auto")
far = {"resources": {"far": 1}}

@nbray.remote(max_retries=0)
def step(i):
    time.sleep(0.05)
    return i

@nbray.remote
class Counter:
    def __init__(self): self.n = 0
    def add(self): self.n += 1; return self.n

counter = Counter.options(**far).remote()
assert nbray.get(counter.add.remote()) == 1
steps = [step.options(**far).remote(i) for i in range(60)]
calls = [counter.add.remote() for _ in range(2000)]
nbray.wait(steps, num_returns=5)
print("out", flush=True)
sys.stdin.readline()
assert nbray.get(counter.add.remote(), timeout=60) == 2002
assert nbray.get(calls, timeout=60) == list(range(2, 2002))
assert nbray.get(steps, timeout=60) == list(range(60))
print("all there", flush=True)
"""


def test_a_cable_that_is_out_for_a_while_costs_nothing(machines: tuple[Machine, Machine]) -> None:
    """Nothing here may be run again: whatever were lost, or made twice, would show."""
    head, other = machines
    driver = subprocess.Popen(
        head.python("-c", OUT), env={**head.env(), "NBRAY_HEALTH_CHECK_TIMEOUT_S": "30"}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert driver.stdout is not None
    assert driver.stdout.readline() == "out\n"
    other.cable("down")
    time.sleep(1.5)  # how long it is out: what is sent meanwhile is lost
    other.cable("up")
    out, err = driver.communicate("\n", timeout=90)
    assert out == "all there\n", err
    assert "dead" not in head.nbray("status")
