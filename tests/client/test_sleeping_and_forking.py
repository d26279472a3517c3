"""A laptop that sleeps, and a program from afar with threads, coroutines and forks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import psutil
import pytest
from support.far_driver import gateway_of

import nbray
from nbray.exceptions import ActorDiedError
from nbray.launcher.local import RunningNode
from nbray.testing import Proxy, wait_until

pytestmark = pytest.mark.slow

_LAPTOP = """
import sys
import numpy as np
import nbray

nbray.init(sys.argv[1], namespace="house")

@nbray.remote(num_cpus=0)
class Counter:
    count = 0
    def add(self):
        self.count += 1
        return self.count

@nbray.remote(num_cpus=0)
def total(array):
    return float(array.sum())

kept = Counter.options(name="kept", lifetime="detached").remote()
own = Counter.options(name="own").remote()
assert nbray.get([kept.add.remote(), own.add.remote()]) == [1, 1]
print("begun", flush=True)
calls = 1
try:
    for line in sys.stdin:
        for _ in range(20):
            calls += 1
            assert nbray.get(own.add.remote()) == calls
            assert nbray.get(total.remote(nbray.put(np.ones(1 << 16)))) == 1 << 16
        print("done", flush=True)
except nbray.exceptions.LocalRayletDiedError as error:
    print("told:", error, flush=True)
"""


class Laptop:
    """A program on another machine; it works when it is told to."""

    def __init__(self, address: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAPTOP, address], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        said = self.said()
        assert said == "begun", said

    def said(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def work(self) -> None:
        """Have it do a round."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """All of its processes stand still, as when the lid is closed."""
        program = psutil.Process(self._process.pid)
        all_of_it = [program, *program.children(recursive=True)]
        assert len(all_of_it) > 1, "there is an agent"
        for process in all_of_it:
            process.suspend()
        try:
            yield
        finally:
            for process in all_of_it:
                process.resume()

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def laptop(address: str) -> Iterator[Laptop]:
    made = Laptop(address)
    try:
        yield made
    finally:
        made.end()


def test_a_laptop_that_sleeps_loses_nothing(address: str) -> None:
    with laptop(address) as far:
        for seconds in (1.0, 12.0):  # the second sleep is longer than a connection may be silent
            far.work()
            with far.asleep():
                time.sleep(seconds)
            said = far.said()
            assert said == "done", said


def test_a_laptop_that_sleeps_for_longer_than_the_grace_is_told_so(
    address: str, head: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_CLIENT_RECONNECT_GRACE_PERIOD", "1")
    with laptop(address) as far:
        nbray.init(head.address, namespace="house")
        own = nbray.get_actor("own")
        with far.asleep():
            wait_until(lambda: _is_dead(own), "the end of its job", 60)
        far.work()
        told = far.said()
        assert told.startswith("told:") and "out of reach for too long" in told, told


def _is_dead(actor: nbray.actor.ActorHandle) -> bool:
    try:
        nbray.get(actor.add.remote(), timeout=5)
    except ActorDiedError:
        return True
    except nbray.exceptions.GetTimeoutError:
        pass  # it is on its way to its end, or this machine is busy
    return False


def test_who_goes_on_after_the_gateways_death(address: str, head: RunningNode) -> None:
    """Detached actors and drivers of the cluster do; remote drivers and their jobs do not."""
    nbray.init(head.address, namespace="house")

    @nbray.remote
    def double(number: int) -> int:
        return 2 * number

    with laptop(address) as far:
        own, kept = nbray.get_actor("own"), nbray.get_actor("kept")
        refs = [double.remote(n) for n in range(20)]
        gateway_of(head).kill()
        assert nbray.get(refs) == [2 * n for n in range(20)]
        wait_until(lambda: _is_dead(own), "the end of the remote driver's job")
        assert nbray.get(kept.add.remote()) == 2
        far.work()
        told = far.said()
        assert told.startswith("told:"), told
    nbray.shutdown()
    nbray.init(address, namespace="house")  # by another gateway
    assert nbray.get(nbray.get_actor("kept").add.remote()) == 3


def test_threads_coroutines_and_forks_of_a_program_from_afar(path: Proxy, address: str) -> None:
    nbray.init(address)
    results: list[int] = []

    @nbray.remote
    def add(one: int, other: int) -> int:
        return one + other

    @nbray.remote
    def grow(array: np.ndarray) -> np.ndarray:
        return array + 1

    def by_thread(number: int) -> bool:
        array = np.full(1 << 16, number)
        is_right = bool((nbray.get(grow.remote(nbray.put(array))) == number + 1).all()) and all(
            nbray.get(add.remote(number, n)) == number + n for n in range(10)
        )
        results.append(number)
        return is_right

    async def by_coroutine(number: int) -> int:
        result = int(await add.remote(number, await add.remote(number, 1)))
        results.append(result)
        return result

    async def many() -> list[int]:
        return await asyncio.gather(*(by_coroutine(n) for n in range(50)))

    cuts = threading.Event()

    def cut() -> None:
        seen = -1
        while not cuts.wait(0.3):
            if len(results) > seen:  # a busy machine may bring nothing through in that time
                seen = len(results)
                path.cut()

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(by_thread, range(24)))
        assert asyncio.run(many()) == [2 * n + 1 for n in range(50)]
        refs = [add.remote(n, n) for n in range(50)]
        forks = [_fork_that_waits() for _ in range(3)]
        assert nbray.get(refs) == [2 * n for n in range(50)]
    finally:
        cuts.set()
        cutting.join()
    for fork in forks:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
    assert nbray.get(add.remote(1, 2)) == 3, "the end of a fork is nothing to the tunnel"
    fork = _fork_that_waits()
    nbray.shutdown()
    wait_until(lambda: not _agents(), "the agent's end, of which a fork holds nothing open")
    os.kill(fork, signal.SIGKILL)
    os.waitpid(fork, 0)


def _fork_that_waits() -> int:
    """A child that knows the driver, and has no part in the cluster."""
    child = os.fork()
    if child:
        return child
    signal.pause()
    os._exit(0)


def _agents() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "nbray.client.agent" in child.cmdline():
                found.append(child)
    return found
