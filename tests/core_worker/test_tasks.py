"""Tasks and objects, on a real cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nbray
from nbray.driver.joining import find_session
from nbray.testing import Gate, processes_of, wait_until
from nbray.util.state import list_objects


@nbray.remote
def add(a: int, b: int = 1) -> int:
    return a + b


def free_cpus() -> float:
    return nbray.available_resources().get("CPU", 0)


def test_results_arguments_and_refs_as_arguments(cluster: Path) -> None:
    assert nbray.get(add.remote(1)) == 2
    assert nbray.get(add.remote(add.remote(1), b=add.remote(2))) == 5
    assert nbray.get([add.remote(i) for i in range(500)]) == list(range(1, 501))


def test_several_returns(cluster: Path) -> None:
    refs = nbray.remote(lambda: (1, 2, 3)).options(num_returns=3).remote()
    assert nbray.get(refs) == [1, 2, 3]


def test_an_error_is_an_instance_of_the_users_class(cluster: Path) -> None:
    @nbray.remote
    def fail() -> None:
        raise KeyError("the key")

    with pytest.raises(KeyError) as caught:
        nbray.get(fail.remote())
    assert isinstance(caught.value, nbray.exceptions.TaskError)
    assert 'raise KeyError("the key")' in str(caught.value)
    with pytest.raises(KeyError):
        nbray.get(add.remote(fail.remote()))


def test_get_and_wait_with_timeouts(cluster: Path) -> None:
    slow = nbray.remote(time.sleep).remote(30)
    quick = add.remote(1)
    with pytest.raises(nbray.exceptions.GetTimeoutError):
        nbray.get(slow, timeout=0.1)
    assert nbray.wait([slow, quick], timeout=60) == ([quick], [slow])
    nbray.cancel(slow)
    with pytest.raises(nbray.exceptions.TaskCancelledError):
        nbray.get(slow, timeout=60)


def test_arrays_are_read_in_place_and_their_memory_is_used_again(cluster: Path) -> None:
    for _ in range(10):  # 10 x 80 MB through a store of 200 MB
        array = nbray.get(nbray.put(np.ones(10_000_000)))
        assert not array.flags.writeable
        assert array[::1000].sum() == 10_000
        kept = array[:10]
        del array
    assert kept.sum() == 10  # the slice outlives its ref


def test_tasks_submit_tasks_on_a_full_node(cluster: Path) -> None:
    @nbray.remote
    def tree(depth: int) -> int:
        if not depth:
            return 1
        return sum(nbray.get([tree.remote(depth - 1) for _ in range(2)]))

    assert nbray.get(tree.remote(4), timeout=60) == 16
    wait_until(lambda: free_cpus() == 2, "all CPUs free again")


def test_refs_inside_values_are_passed_on_and_freed(cluster: Path) -> None:
    @nbray.remote
    def make() -> list[nbray.ObjectRef]:
        return [nbray.put(np.full(1_000_000, 7.0))]

    @nbray.remote
    def use(refs: list[nbray.ObjectRef]) -> float:
        return float(nbray.get(refs[0])[0])

    outer = make.remote()
    (inner,) = nbray.get(outer)
    del outer
    assert nbray.get(inner)[0] == 7
    assert nbray.get(use.remote([inner])) == 7
    del inner
    wait_until(lambda: nbray.nodes()[0]["Stats"]["objects"] == 0, "the arena to be empty again")


def test_a_killed_workers_tasks_run_again(cluster: Path, tmp_path: Path) -> None:
    @nbray.remote
    def die_once(flag: str) -> str:
        if not os.path.exists(flag):
            open(flag, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return "second run"

    @nbray.remote(max_retries=0)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert nbray.get(die_once.remote(str(tmp_path / "flag")), timeout=30) == "second run"
    with pytest.raises(nbray.exceptions.WorkerCrashedError):
        nbray.get(die.remote(), timeout=30)
    wait_until(lambda: free_cpus() == 2, "all CPUs free again")


def test_2000_tasks_while_workers_are_killed(cluster: Path) -> None:
    @nbray.remote(max_retries=-1)
    def step(i: int) -> tuple[int, int]:
        time.sleep(0.001)
        return i, os.getpid()

    refs = [step.remote(i) for i in range(2000)]
    for part in (refs[200], refs[700], refs[1200]):
        _, pid = nbray.get(part, timeout=60)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert [i for i, _ in nbray.get(refs, timeout=60)] == list(range(2000))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_drivers_end_stops_its_tasks(cluster: Path, how: signal.Signals) -> None:
    program = (
        "import nbray, time; nbray.init('auto')\n"
        "f = nbray.remote(time.sleep).options(num_cpus=2)\n"
        "r = f.remote(600); s = nbray.put(b'x' * 1000000)\n"
        "print('up', flush=True); nbray.get(r)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"up\n"
    wait_until(lambda: free_cpus() == 0, "the other driver's task to run")
    driver.send_signal(how)
    driver.wait(20)
    driver.stdout.close()
    wait_until(lambda: free_cpus() == 2, "its CPUs to be given back")
    wait_until(lambda: nbray.nodes()[0]["Stats"]["objects"] == 0, "its objects to be freed")


def test_killing_the_raylet_ends_its_workers(cluster: Path) -> None:
    nbray.get(add.remote(1))
    _, info = find_session("auto")
    os.kill(info["pids"][1], signal.SIGKILL)
    wait_until(
        lambda: not any("template" in str(p.info["cmdline"]) for p in processes_of(cluster)),
        "the template and its workers to leave",
    )


def test_unknown_options_and_direct_calls_are_errors(cluster: Path) -> None:
    with pytest.raises(ValueError, match="Invalid option keyword"):
        nbray.remote(num_cpu=1)(lambda: 1)
    with pytest.raises(TypeError, match="cannot be called directly"):
        add(1)
    with pytest.raises(ValueError, match="ObjectRef"):
        nbray.get(1)


@pytest.mark.slow
def test_idle_workers_stay_while_others_need_what_they_own(cluster: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    @nbray.remote(num_cpus=0)
    def make(i: int) -> list[nbray.ObjectRef]:
        gate.wait_here()  # so that each has a worker for itself
        return [nbray.put(np.full(30_000, i)), nbray.put(i)]

    refs = [make.remote(i) for i in range(8)]
    gate.wait_for(8)
    gate.open()
    made = nbray.get(refs, timeout=60)

    def workers() -> float:
        return float(nbray.nodes()[0]["Stats"]["workers"])

    wait_until(lambda: workers() >= 8, "the report of eight workers")
    nbray.get(
        [nbray.remote(time.sleep).remote(1.5) for _ in range(2)], timeout=60
    )  # trims meanwhile
    for i, (large, small) in enumerate(made):
        assert int(nbray.get(large, timeout=30)[0]) == nbray.get(small, timeout=30) == i
    del refs, made, large, small
    try:
        wait_until(lambda: workers() <= 2, "the idle workers to leave")
    except AssertionError:
        pytest.fail(f"{workers()} workers, which hold {list_objects()}")
