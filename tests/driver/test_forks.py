"""Forks that user code makes, by `os.fork` or multiprocessing, of workers and of drivers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from support.terminal import Terminal

import nbray
from nbray.exceptions import NbraySystemError
from nbray.testing import processes_of, wait_until
from nbray.util.metrics import Counter

CHILDREN = 40


def test_the_children_of_a_task_print_while_its_threads_print(
    cluster: Path, terminal: Terminal
) -> None:
    @nbray.remote
    def fork_and_print() -> list[int]:
        stop = threading.Event()
        counter = Counter("lines")

        def noise() -> None:
            while not stop.is_set():
                print("x" * 200)
                counter.inc()

        def child(number: int) -> None:
            print("child", number)
            counter.inc()

        threads = [threading.Thread(target=noise) for _ in range(2)]
        for thread in threads:
            thread.start()
        ends = []
        for number in range(CHILDREN):
            process = multiprocessing.get_context("fork").Process(target=child, args=(number,))
            process.start()
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()
            ends.append(process.exitcode or 0)
        stop.set()
        for thread in threads:
            thread.join()
        return ends

    assert nbray.get(fork_and_print.remote()) == [0] * CHILDREN


def test_what_a_fork_of_a_task_prints_reaches_the_driver(cluster: Path, terminal: Terminal) -> None:
    @nbray.remote
    def fork_and_print() -> int:
        print("the parent before")
        pid = os.fork()
        if pid == 0:
            print("the child")
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        print("the parent after")
        return status

    assert nbray.get(fork_and_print.remote()) == 0

    def printed() -> bool:
        said = ("the parent before", "the child", "the parent after")
        return all(text in terminal.out for text in said)

    wait_until(printed, "what parent and child printed")


def test_children_that_outlive_their_task_are_heard(
    cluster: Path, terminal: Terminal, tmp_path: Path
) -> None:
    @nbray.remote
    def leave(gate: str) -> None:
        waits = f"while [ ! -e {gate} ]; do sleep 0.05; done; echo the subprocess"
        subprocess.Popen(["sh", "-c", waits])
        if os.fork() == 0:
            while not os.path.exists(gate):
                threading.Event().wait(0.05)
            print("the fork")
            os._exit(0)

    nbray.get(leave.remote(str(tmp_path / "gate")))
    threading.Event().wait(1.5)  # longer than a log is looked at without a reason
    (tmp_path / "gate").touch()

    def heard() -> bool:
        return "the subprocess" in terminal.out and "the fork" in terminal.out

    wait_until(heard, "what they print")


def test_a_fork_that_comes_back_from_its_task_runs_nothing_more(cluster: Path) -> None:
    @nbray.remote
    def fork(path: str) -> int:
        with open(path, "a") as file:
            file.write("ran\n")
        child = os.fork()
        return os.waitpid(child, 0)[1] if child else 0  # both return

    path = cluster / "ran"
    try:
        ends = nbray.get([fork.options(num_cpus=2).remote(str(path)) for _ in range(20)])
        assert len(ends) == 20
        assert path.read_text() == "ran\n" * 20
    finally:
        path.unlink(missing_ok=True)


def in_fork(action: str, use: Any = None) -> str:
    """What it says in a fork of this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "nothing"
        try:
            said = str(eval(action, None, {"use": use}))
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_a_fork_of_a_driver_is_told_that_it_is_none(cluster: Path) -> None:
    expected = f"{NbraySystemError.__name__}: System error: this process is a fork"
    assert in_fork("nbray.get(nbray.put(1))").startswith(expected)
    assert in_fork("nbray.is_initialized()") == "False"
    assert in_fork("nbray.nodes()").startswith(expected)
    assert in_fork("nbray.available_resources()").startswith(expected)


def test_what_a_fork_has_of_its_driver_says_that_it_is_of_no_use_there(cluster: Path) -> None:
    @nbray.remote
    class Actor:
        def answer(self) -> int:
            return 42

    ref, actor = nbray.put(1), Actor.remote()
    assert nbray.get([ref, actor.answer.remote()]) == [1, 42]
    for use in (
        ref.future,
        lambda: pickle.dumps(ref),
        actor.answer.remote,
        lambda: nbray.kill(actor),
    ):
        assert "of the process that this one is a fork of" in in_fork("use()", use=use)
    assert nbray.get([ref, actor.answer.remote()]) == [1, 42]


def test_what_a_fork_of_a_driver_does_at_its_end_leaves_the_driver_alone(cluster: Path) -> None:
    @nbray.remote
    def double(x: int) -> int:
        return 2 * x

    ref = nbray.put(list(range(1000)))
    assert nbray.get(double.remote(1)) == 2
    for action in ("nbray.shutdown()", "sys.exit()"):
        in_fork(action)
        assert nbray.get(double.remote(2)) == 4
        assert len(nbray.get(ref)) == 1000


def test_a_fork_of_a_driver_may_join_the_cluster_itself(cluster: Path) -> None:
    address = nbray.get_runtime_context().gcs_address
    assert in_fork(f"nbray.init({address!r}) and nbray.get(nbray.put(5))") == "5"
    assert nbray.get(nbray.put(6)) == 6


def test_a_killed_driver_takes_its_cluster_along_though_a_fork_of_it_lives(
    session_root: Path,
) -> None:
    program = (
        "import nbray, os, time\n"
        "nbray.init(num_cpus=1)\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(600)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    child = int(driver.stdout.readline())
    try:
        driver.kill()
        driver.wait()
        wait_until(lambda: not processes_of(session_root), "the end of its cluster")
    finally:
        os.kill(child, signal.SIGKILL)
        for folder in session_root.iterdir():  # which the next cluster would remove
            shutil.rmtree(folder)
        driver.stdout.close()
