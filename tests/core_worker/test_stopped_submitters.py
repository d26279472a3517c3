"""A submitter that stands still keeps nobody from working, and goes on as if it had not."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.stopping import stand_still

import nbray
from nbray.testing import wait_until

HOLDER = """
import nbray
nbray.init("auto", log_to_driver=False)
@nbray.remote
def double(x):
    return 2 * x
@nbray.remote(max_retries=0)
def once(x):
    return 3 * x
assert nbray.get([double.remote(i) for i in range(100)]) == [2 * i for i in range(100)]
print("up", flush=True)
input()
print(nbray.get([double.remote(1), once.remote(2), double.remote(3)], timeout=60), flush=True)
"""

WAITER = """
import nbray, os, sys
nbray.init("auto", log_to_driver=False)
@nbray.remote
def stay(path):
    open(path + ".begun", "a").close()
    while not os.path.exists(path):
        import time; time.sleep(0.01)
    return 5
refs = [stay.remote(sys.argv[1]) for _ in range(30)]
print("up", flush=True)
print(sum(nbray.get(refs, timeout=100)), flush=True)
"""


@pytest.fixture
def keeps_idle(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster whose submitters keep idle workers, unless others wait for them."""
    monkeypatch.setenv("NBRAY_LEASE_IDLE_S", "600")
    monkeypatch.setenv("NBRAY_LEASE_SILENCE_S", "0.5")
    nbray.init(num_cpus=2, object_store_memory=50 << 20)


@contextlib.contextmanager
def program(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Another driver, which has said that it is up."""
    driver = subprocess.Popen(
        [sys.executable, "-c", code, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "up\n"
        yield driver
    finally:
        driver.kill()
        driver.communicate()


def stop(driver: subprocess.Popen[str]) -> None:
    stand_still(driver.pid)
    wait_until(lambda: psutil.Process(driver.pid).status() == psutil.STATUS_STOPPED, "its stop")


def test_workers_that_a_stopped_driver_left_idle_go_to_others(keeps_idle: None) -> None:
    with program(HOLDER) as holder:
        stop(holder)
        assert nbray.get(nbray.remote(lambda: "mine").remote(), timeout=60) == "mine"
        both = nbray.remote(num_cpus=2)(lambda: "both")
        assert nbray.get(both.remote(), timeout=60) == "both"
        holder.send_signal(signal.SIGCONT)
        assert holder.communicate("\n")[0] == "[2, 6, 6]\n"


def test_an_actor_is_created_on_what_a_stopped_driver_left_idle(keeps_idle: None) -> None:
    @nbray.remote(num_cpus=2)
    class Actor:
        def answer(self) -> int:
            return 42

    with program(HOLDER) as holder:
        stop(holder)
        assert nbray.get(Actor.remote().answer.remote(), timeout=60) == 42


def test_what_a_stopped_driver_waits_for_is_served_when_it_goes_on(
    keeps_idle: None, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with program(WAITER, str(gate)) as waiter:
        wait_until(lambda: (tmp_path / "gate.begun").exists(), "its first task")
        stop(waiter)
        mine = [nbray.remote(lambda: 1).remote() for _ in range(20)]
        gate.touch()  # its workers are idle now, and it asks for more
        assert sum(nbray.get(mine, timeout=60)) == 20
        waiter.send_signal(signal.SIGCONT)
        assert waiter.communicate()[0] == "150\n"
