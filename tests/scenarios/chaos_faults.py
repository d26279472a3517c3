"""What chaos does to a cluster: processes killed, stopped for a while, and cut off."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
from support.far_driver import gateway_of, my_remote

from nbray.common.session import Session
from nbray.launcher.local import RunningNode
from nbray.testing import Proxy, kill_node

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
                self.replace_dead_nodes()
                self.strike()
        except BaseException as error:
            self.failed = error

    def strike(self) -> None:
        """One fault, chosen by the seed."""
        chosen = self.rng.choice(self.kinds())
        with contextlib.suppress(psutil.NoSuchProcess):
            chosen()

    def kinds(self) -> list[Callable[[], None]]:
        """What may happen, the frequent ones more than once."""
        return [
            self.kill_worker, self.kill_worker, self.kill_node, self.stop_worker, self.stop_raylet,
            self.kill_driver, self.stop_driver, self.kill_gcs, self.stop_gcs, self.cut, self.cut,
        ]  # fmt: skip

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
            self._stop_for_a_while(victim, self._while())

    def _while(self) -> float:
        """How many seconds a process stands still: mostly few, now and then up to twelve."""
        if self.rng.random() < 0.2:
            return self.rng.uniform(3.0, 12.0)
        return self.rng.uniform(0.05, 3.0)

    def _gcs(self) -> psutil.Process:
        return psutil.Process(self.head.read_info()["pids"][0])

    def kill_gcs(self) -> None:
        victim = self._gcs()
        self._note("kill the GCS", victim)
        victim.kill()

    def stop_gcs(self) -> None:
        victim = self._gcs()
        self._note("stop the GCS for a while", victim)
        self._stop_for_a_while(victim, self._while())

    def stop_raylet(self) -> None:
        victim = psutil.Process(self.rng.choice(self.nodes).children[-1].pid)
        self._note("stop a raylet for a while", victim)
        self._stop_for_a_while(victim, self._while())

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
            self._stop_for_a_while(victim, self._while())

    def cut(self) -> None:
        """Connections between two that live break, as a firewall or a router breaks them."""
        raylet = psutil.Process(self.rng.choice(self.nodes).children[-1].pid)
        victim = self.rng.choice([psutil.Process(), raylet])  # this driver, or a node
        found = [
            c
            for process in [victim, *(raylet.children(recursive=True) if victim == raylet else [])]
            for c in process.net_connections("tcp")
            if c.status == psutil.CONN_ESTABLISHED
        ]
        if found and shutil.which("ss"):
            found.sort(key=lambda c: (c.laddr, c.raddr))
            self._note("cut connections", victim)
            for chosen in self.rng.sample(found, min(len(found), self.rng.choice([1, 1, 3]))):
                subprocess.run(
                    ["ss", "-K", "src", chosen.laddr.ip, "sport", "=", str(chosen.laddr.port),
                     "dst", chosen.raddr.ip, "dport", "=", str(chosen.raddr.port)],
                    check=False, capture_output=True,
                )  # fmt: skip

    def replace_dead_nodes(self) -> None:
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
        kill_node(raylet)
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


@dataclass
class FarFaults(Faults):
    """What is done to a cluster and to the tunnel of its driver, which is on no machine of it."""

    path: Proxy | None = None
    head_node: RunningNode | None = None

    def kinds(self) -> list[Callable[[], None]]:
        """As many faults of the tunnel as of the cluster."""
        own = [
            self.cut_tunnel, self.cut_tunnel, self.no_way, self.hold_tunnel, self.stop_agent,
            self.stop_gateway,
        ]  # fmt: skip
        return [*super().kinds(), *own, *own]

    def _way(self) -> Proxy:
        assert self.path is not None
        return self.path

    def cut_tunnel(self) -> None:
        self._note("cut the tunnel", psutil.Process())
        self._way().cut()

    def no_way(self) -> None:
        self._note("no way to the gateway for a while", psutil.Process())
        self._way().refuse()
        self._way().cut()
        self._for_a_while(lambda: self._way().refuse(False))

    def hold_tunnel(self) -> None:
        self._note("nothing passes the tunnel for a while", psutil.Process())
        self._way().hold()
        self._for_a_while(self._way().release)

    def _for_a_while(self, end: Callable[[], None]) -> None:
        try:
            self.over.wait(self._while())
        finally:
            end()
            self.done[-1].over_at = time.monotonic()

    def stop_agent(self) -> None:
        victim = psutil.Process(my_remote().agent_pid)
        self._note("stop the agent for a while", victim)
        self._stop_for_a_while(victim, self._while())

    def stop_gateway(self) -> None:
        assert self.head_node is not None
        victim = gateway_of(self.head_node)
        self._note("stop the gateway for a while", victim)
        self._stop_for_a_while(victim, self._while())


def report(faults: list[Fault]) -> str:
    """How many faults of each kind there were, and the longest recovery."""
    lines = [f"{'faults':>8}  {'longest recovery':>17}"]
    for kind in sorted({fault.kind for fault in faults}):
        times = [fault.recovery for fault in faults if fault.kind == kind]
        longest = max((t for t in times if t is not None), default=0.0)
        lines.append(f"{len(times):8}  {longest:15.2f} s  {kind}")
    return "\n".join(lines)
