"""`Queue`: no item is lost when its reader gives up or ends, and no number of waits blocks it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.exceptions import ActorDiedError, TaskCancelledError, WorkerCrashedError
from nbray.testing import wait_until
from nbray.util.queue import Empty, Full, Queue


@pytest.fixture(scope="module")
def cluster(module_cluster: Path) -> Path:
    return module_cluster


@pytest.fixture
def queue(cluster: Path) -> Queue:
    return Queue()


@nbray.remote(max_retries=0, num_cpus=0.5)
def read(queue: Queue, started: str) -> Any:
    Path(started).touch()
    return queue.get()


def interrupted(queue: Queue, _path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        queue.get()


def limited(queue: Queue, _path: Path) -> None:
    def handler(_signal: int, _frame: Any) -> None:
        raise ArithmeticError("time is over")

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(ArithmeticError):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            queue.get()
    finally:
        signal.signal(signal.SIGALRM, previous)


def out_of_time(queue: Queue, _path: Path) -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(queue.get_async(), 0.2))


def readers(queue: Queue) -> int:
    """How many wait for an item at this moment."""
    return nbray.get(queue.actor.__ray_call__.remote(lambda self: len(self._readers)), timeout=30)


def cancelled(queue: Queue, path: Path) -> None:
    ref = read.remote(queue, str(path))
    wait_until(path.exists, "the reader")
    nbray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        nbray.get(ref, timeout=20)


def killed(queue: Queue, path: Path) -> None:
    ref = read.remote(queue, str(path))
    wait_until(path.exists, "the reader")
    wait_until(lambda: readers(queue) == 1, "it to wait in the queue")
    nbray.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        nbray.get(ref, timeout=20)
    # What comes before the queue has heard of it is on its way to the reader.
    wait_until(lambda: readers(queue) == 0, "the queue to hear of it")


@pytest.mark.parametrize("gives_up", [interrupted, limited, out_of_time, cancelled, killed])
def test_an_item_does_not_go_to_a_reader_that_has_given_up(
    queue: Queue, tmp_path: Path, gives_up: Callable[[Queue, Path], None]
) -> None:
    gives_up(queue, tmp_path / "started")
    queue.put("first")
    queue.put("second")
    assert queue.get(timeout=60) == "first"
    assert queue.get(timeout=60) == "second"


def test_a_program_that_is_killed_while_it_reads_takes_no_item(queue: Queue, cluster: Path) -> None:
    program = (
        "import nbray\n"
        "nbray.init('auto', namespace='q')\n"
        "queue = nbray.get(nbray.get_actor('keeper', namespace='q').get.remote())\n"
        "print('reads', flush=True)\n"
        "queue.get()\n"
    )

    @nbray.remote(num_cpus=0)
    class Keeper:
        def get(self) -> Queue:
            return queue

    keeper = Keeper.options(name="keeper", namespace="q").remote()
    nbray.get(keeper.get.remote())
    reader = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert reader.stdout is not None and reader.stdout.readline()
    wait_until(lambda: readers(queue) == 1, "it to wait in the queue")
    reader.kill()
    reader.wait()
    reader.stdout.close()
    wait_until(lambda: readers(queue) == 0, "the queue to hear of it")
    queue.put("kept")
    assert queue.get(timeout=60) == "kept"


def test_readers_that_poll_lose_and_double_nothing(queue: Queue) -> None:
    @nbray.remote(num_cpus=0.5)
    def poll(queue: Queue) -> list[int]:
        found: list[int] = []
        while -1 not in found:
            try:
                found.append(queue.get(timeout=0.002))
            except Empty:
                continue
        return found

    async def polls(seconds: float) -> list[int]:
        found = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                found.append(await asyncio.wait_for(queue.get_async(), 0.005))
            except TimeoutError:
                continue
        return found

    refs = [poll.remote(queue) for _ in range(2)]
    for i in range(200):
        queue.put(i)
        if i == 100:
            found = asyncio.run(polls(0.5))
    queue.put(-1)
    queue.put(-1)
    found += [i for part in nbray.get(refs, timeout=60) for i in part]
    assert sorted(found) == [-1, -1, *range(200)]


def test_two_thousand_readers_wait_and_each_gets_its_item(queue: Queue) -> None:
    waiting = [queue._take(True, None) for _ in range(2000)]
    for i in range(2000):
        queue.actor.put.remote(i)  # type: ignore[union-attr]
    assert sorted(item for (item,) in nbray.get(waiting, timeout=60)) == list(range(2000))


def test_writers_wait_for_room_in_order_and_may_give_up(cluster: Path) -> None:
    queue = Queue(maxsize=2)
    queue.put_nowait_batch([0, 1])
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        queue.put("interrupted")
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(queue.put_async("out of time"), 0.1))
    writing = [queue.actor.put.remote(i) for i in (2, 3)]  # type: ignore[union-attr]
    with pytest.raises(Full, match="Cannot add 1 items to queue of size 2 and maxsize 2"):
        queue.put_nowait_batch([4])
    assert [queue.get(timeout=60) for _ in range(4)] == [0, 1, 2, 3]
    assert nbray.get(writing, timeout=60) == [True, True]
    with pytest.raises(Empty, match="Cannot get 1 items from queue of size 0"):
        queue.get_nowait_batch(1)


def test_what_an_interrupted_reader_had_got_is_the_first_again(queue: Queue) -> None:
    queue.put_nowait_batch([1, 2, 3, 4])
    taken = queue._methods().get_batch.remote(2)
    nbray.wait([taken])
    queue._withdraw(taken, takes=True)
    assert [queue.get(timeout=60) for _ in range(4)] == [1, 2, 3, 4]


def test_a_queue_that_was_shut_down_says_so(queue: Queue) -> None:
    queue.shutdown()
    queue.shutdown()
    assert queue.actor is None
    with pytest.raises(ActorDiedError, match="shut down"):
        queue.put(1)
