"""A program leaves its cluster, or loses it, and goes on: what it keeps stays, all else ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.cluster_utils import Cluster
from nbray.driver.driver import current_core
from nbray.exceptions import NbraySystemError
from nbray.testing import wait_until
from nbray.util.state import list_actors, list_jobs

MB = 1 << 20


@pytest.fixture
def joined(session_root: Path) -> Iterator[Cluster]:
    """A cluster that outlives this program's part in it, with a store of 100 MB."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nbray.init(address=cluster.address)
    yield cluster
    nbray.shutdown()
    cluster.shutdown()


def in_store() -> int:
    """The objects of all nodes, as the GCS was told last."""
    return sum(int(node["Stats"].get("objects", -1)) for node in nbray.nodes() if node["Alive"])


def cut_connection_to_raylet() -> None:
    """The connection is gone and both processes live."""
    path = current_core().session.read_info()["raylet_socket"]
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family == socket.AF_UNIX and sock.getpeername() == path:
                    sock.shutdown(socket.SHUT_RDWR)
                    return
        except OSError:  # it is no socket, or has no peer
            continue
    raise AssertionError("there is no connection to the raylet")


def stored(value: int, size: int = 20 * MB) -> Any:
    return nbray.get(nbray.put(np.full(size, value, np.uint8)))


def overwrite_the_store() -> None:
    """As much as there is room for, again and again."""
    for value in range(200, 212):
        nbray.put(np.full(20 * MB, value, np.uint8))


@pytest.mark.parametrize("how", ["cut", "shutdown"])
def test_an_array_stays_what_it_was_when_its_session_has_ended(joined: Cluster, how: str) -> None:
    kept = stored(7)
    if how == "cut":
        cut_connection_to_raylet()
    nbray.shutdown()
    nbray.init(address=joined.address)
    overwrite_the_store()
    assert (kept == 7).all()
    wait_until(lambda: in_store() == 1, "the end of all values but the one that is read")
    del kept
    wait_until(lambda: in_store() == 0, "the end of the value that was read")


def test_an_array_stays_what_it_was_before_the_driver_has_left(joined: Cluster) -> None:
    kept = stored(7)
    cut_connection_to_raylet()
    # Another driver writes, while this one does not even know yet.
    program = (
        "import nbray, numpy as np, sys\n"
        "nbray.init(address=sys.argv[1])\n"
        "for value in range(12): nbray.put(np.full(20 << 20, value, np.uint8))\n"
    )
    subprocess.run([sys.executable, "-c", program, joined.address], check=True, timeout=60)
    assert (kept == 7).all()


def test_an_array_that_a_fork_inherited_stays_when_its_parent_has_gone(joined: Cluster) -> None:
    nbray.shutdown()
    here, there = socket.socketpair()
    parent = os.fork()
    if parent == 0:
        try:
            nbray.init(address=joined.address)
            kept = stored(7)
            if os.fork() == 0:
                here.close()
                there.recv(1)
                there.sendall(b"kept" if (kept == 7).all() else b"lost")
        finally:
            os._exit(0)
    there.close()
    assert os.waitpid(parent, 0)[1] == 0
    nbray.init(address=joined.address)
    wait_until(lambda: [job.status for job in list_jobs()].count("RUNNING") == 1, "its job's end")
    overwrite_the_store()
    here.sendall(b"?")
    assert here.recv(10) == b"kept"
    wait_until(lambda: in_store() == 0, "the end of the value when the fork has gone")


@pytest.mark.parametrize("what", ["handle", "ref", "array", "generator"])
def test_shutdown_ends_the_job_whatever_is_still_a_variable(joined: Cluster, what: str) -> None:
    @nbray.remote(num_cpus=2)
    class Holder:
        def ready(self) -> bool:
            return True

    @nbray.remote(num_cpus=0)
    def items() -> Iterator[int]:
        yield from range(3)

    holder = Holder.remote()
    assert nbray.get(holder.ready.remote())
    ref = nbray.put(np.zeros(MB, np.uint8))
    kept = {"handle": holder, "ref": ref, "array": nbray.get(ref), "generator": items.remote()}
    for name in set(kept) - {what}:
        del kept[name]
    del holder, ref
    nbray.shutdown()
    nbray.init(address=joined.address)
    wait_until(lambda: [job.status for job in list_jobs()].count("RUNNING") == 1, "the job's end")
    wait_until(lambda: {a.state for a in list_actors()} == {"DEAD"}, "the actor's end")
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "the return of its CPUs")
    wait_until(lambda: in_store() == (what == "array"), "the end of its values")
    assert kept


def test_whoever_waits_at_shutdown_gets_an_error(cluster: Path) -> None:
    @nbray.remote
    def never() -> None:
        threading.Event().wait()

    @nbray.remote
    class Never:
        def wait(self) -> None:
            threading.Event().wait()

        def items(self) -> Iterator[None]:
            threading.Event().wait()
            yield None

    core = current_core()  # which nbray.get would start anew, if it came too late
    held = [stored(1, 30 * MB) for _ in range(5)]
    actor, ref = Never.remote(), never.remote()
    called = actor.wait.remote()
    items = actor.items.options(num_returns="streaming").remote()
    waits = [
        lambda: core.get([ref]),
        lambda: core.get([called]),
        lambda: core.get(core.values.wait([ref], 1, None)[0]),
        lambda: core.get([next(items)]),
        lambda: asyncio.run(_awaited(ref)),
        lambda: ref.future().result(),
        lambda: core.put(np.zeros(100 * MB, np.uint8)),
    ]
    begun = threading.Barrier(len(waits) + 1)

    def wait(action: Any) -> Any:
        begun.wait()
        return action()

    with concurrent.futures.ThreadPoolExecutor(len(waits)) as pool:
        ends = [pool.submit(wait, action) for action in waits]
        begun.wait()
        nbray.shutdown()
        for end in ends:
            with pytest.raises((NbraySystemError, ValueError), match=r"nbray\.shutdown\(\)"):
                end.result(timeout=20)
    assert held


async def _awaited(ref: Any) -> Any:
    return await ref


def test_shutdown_works_in_a_signal_handler_of_a_program_that_waits(cluster: Path) -> None:
    @nbray.remote
    def never() -> None:
        threading.Event().wait()

    core, ref = current_core(), never.remote()  # nbray.get would start anew, if it came too late
    main = threading.main_thread().ident
    assert main is not None
    previous = signal.signal(signal.SIGUSR1, lambda *_: nbray.shutdown())
    try:
        timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        timer.start()
        with pytest.raises((NbraySystemError, ValueError), match=r"nbray\.shutdown\(\)"):
            core.get([ref])
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    nbray.init(num_cpus=1)
    assert nbray.get(nbray.put(1)) == 1
