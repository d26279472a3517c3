"""What is made and not wanted any more gives its room back. Each test ends with an empty store."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import gc
import operator
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import nbray
from nbray.exceptions import TaskCancelledError, TaskError
from nbray.testing import wait_until

MB = 1 << 20


def in_store() -> int:
    """The objects of the node, as the GCS was told last."""
    return int(nbray.nodes()[0]["Stats"].get("objects", -1))


@pytest.fixture(autouse=True)
def emptied(cluster: Path) -> Iterator[None]:
    """The store is empty in the end, of blocks and of room."""
    yield
    marker = nbray.put(large())  # reports from before it tell nothing
    wait_until(lambda: in_store() > 0, "a new report")
    del marker
    wait_until(lambda: in_store() == 0, "the end of all objects")
    wait_until(lambda: nbray.nodes()[0]["Stats"]["store_used"] == 0, "the return of all room")


def test_a_free_does_not_overtake_its_announcement() -> None:
    value = np.zeros(150_000, np.uint8)
    until = time.monotonic() + 2

    def put_large() -> None:
        while time.monotonic() < until:
            nbray.put(value)

    def put_small() -> None:
        while time.monotonic() < until:
            for _ in range(500):
                nbray.put(0)

    threads = [threading.Thread(target=action) for action in (put_large, put_small)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def large() -> np.ndarray:
    return np.zeros(MB, np.uint8)


def test_values_of_a_task_whose_next_value_cannot_be_pickled() -> None:
    @nbray.remote(num_returns=3, max_retries=0)
    def values() -> tuple[object, ...]:
        return large(), [nbray.put(large())], threading.Lock()

    for _ in range(3):
        for ref in values.remote():
            with pytest.raises(TaskError, match="pickle"):
                nbray.get(ref)


@nbray.remote
class Signalled:
    """Says that its method has begun, and ends it when it has heard that it was cancelled."""

    def __init__(self, folder: str) -> None:
        self.began = Path(folder, "began")

    def value(self) -> object:
        self.began.touch()
        while not nbray.get_runtime_context().is_canceled():
            time.sleep(0.005)
        return large(), [nbray.put(large())]


@nbray.remote
class SignalledAsync:
    """The same as a coroutine, which goes on after it was cancelled."""

    def __init__(self, folder: str) -> None:
        self.began = Path(folder, "began")

    async def value(self) -> object:
        self.began.touch()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return large(), [nbray.put(large())]


@pytest.mark.parametrize("kind", ["plain", "threads", "coroutine"])
def test_values_of_a_method_that_was_cancelled_and_went_on(kind: str, tmp_path: Path) -> None:
    actor_class = SignalledAsync if kind == "coroutine" else Signalled
    concurrency = 2 if kind == "threads" else 1
    actor = actor_class.options(max_concurrency=concurrency).remote(str(tmp_path))
    refs = actor.value.options(num_returns=2).remote()
    wait_until((tmp_path / "began").exists, "the method's beginning")
    nbray.cancel(refs[0])
    for ref in refs:
        with pytest.raises(TaskCancelledError):
            nbray.get(ref)


def interrupt(after_s: float) -> threading.Timer:
    """Ctrl-C for this program, a little later."""
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_a_put_that_is_interrupted_while_it_waits_for_room() -> None:
    arrays = [nbray.get(nbray.put(np.zeros(45 * MB, np.uint8))) for _ in range(4)]
    with pytest.raises(KeyboardInterrupt):
        timer = interrupt(0.5)
        nbray.put(np.zeros(100 * MB, np.uint8))
    timer.join()
    assert arrays


def test_puts_that_are_interrupted_while_they_write() -> None:
    whole, piece = np.zeros(40 * MB, np.uint8), np.zeros(300_000, np.uint8)
    interrupted = 0
    for number in range(40):
        try:
            timer = interrupt(0.0005 * (number % 20))
            while timer.is_alive():
                nbray.put(whole if number % 2 else piece)
            timer.join()
            time.sleep(0.02)
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted > 20  # what is raised in a __del__ is lost in Python


def a_stream() -> nbray.ObjectRefGenerator:
    @nbray.remote(num_returns="streaming")
    def items() -> Iterator[np.ndarray]:
        yield large()
        yield large()

    stream = items.remote()
    nbray.get(stream.completed(), timeout=60)
    return stream


@pytest.mark.parametrize("kind", ["ref", "array", "stream"])
def test_an_interrupt_at_the_first_step_of_a_finalizer_loses_nothing(kind: str) -> None:
    """Python prints what is raised there, and forgets it."""
    make: dict[str, Callable[[], object]] = {
        "ref": lambda: nbray.put(large()),
        "array": lambda: nbray.get(nbray.put(large())),
        "stream": a_stream,
    }
    for _ in range(5):
        held = [make[kind]()]
        # No code of Python's runs between the two, which could be interrupted in its place.
        steps = [_thread.interrupt_main, held.clear]
        with pytest.raises(KeyboardInterrupt):
            deque(map(operator.call, steps), maxlen=0)
            threading.Event().wait(60)


def test_a_get_that_is_interrupted_or_runs_out_gives_its_pin_back() -> None:
    ref = nbray.put(np.zeros(40 * MB, np.uint8))
    for number in range(40):
        try:
            timer = interrupt(0.0003 * (number % 10))
            while timer.is_alive():
                nbray.get(ref)
            timer.join()
            time.sleep(0.02)
        except KeyboardInterrupt:
            continue
    del ref


def test_items_that_a_retried_stream_yields_once_more(tmp_path: Path) -> None:
    @nbray.remote(max_retries=2)
    def items() -> Iterator[np.ndarray]:
        for number in range(8):
            if number == 6 and not (tmp_path / "died").exists():
                while not (tmp_path / "taken").exists():
                    time.sleep(0.005)
                (tmp_path / "died").touch()
                os._exit(1)
            yield np.full(MB, number, np.uint8)

    seen = []
    for ref in items.remote():
        seen.append(int(nbray.get(ref)[0]))
        del ref
        if len(seen) == 5:
            (tmp_path / "taken").touch()
    assert seen == list(range(8))


def test_a_stream_that_is_dropped_while_it_yields() -> None:
    @nbray.remote
    def items() -> Iterator[object]:
        for _ in range(20):
            yield large()

    for taken in range(5):
        stream = items.remote()
        for _ in range(taken):
            next(stream)
        del stream


def test_a_constructor_that_fails_after_it_has_put_something() -> None:
    @nbray.remote
    class Failing:
        def __init__(self) -> None:
            self.kept = nbray.put(large())
            raise ValueError(self.kept)

        def value(self) -> int:
            return 1

    actor = Failing.remote()
    with pytest.raises(nbray.exceptions.RayActorError):
        nbray.get(actor.value.remote())


def test_a_task_that_is_cancelled_while_it_makes_its_values(tmp_path: Path) -> None:
    @nbray.remote(max_retries=0)
    def values(path: str) -> tuple[object, ...]:
        Path(path).touch()
        return tuple(large() for _ in range(20))

    for number in range(10):
        path = tmp_path / str(number)
        refs = values.options(num_returns=20).remote(str(path))
        wait_until(path.exists, "the task's beginning")
        nbray.cancel(refs[0])
        for ref in refs:
            try:
                nbray.get(ref)
            except TaskCancelledError:
                continue
        del refs, ref


def test_a_worker_that_is_worn_out_stays_as_long_as_others_hold_what_it_owns() -> None:
    @nbray.remote(max_calls=1)
    def own() -> tuple[int, list[nbray.ObjectRef]]:
        return os.getpid(), [nbray.put("small"), nbray.put(large())]

    owners = nbray.get([own.remote() for _ in range(4)])
    assert len({pid for pid, _ in owners}) == 4
    for _, (small, stored) in owners:
        assert nbray.get(small) == "small"
        assert len(nbray.get(stored)) == MB
    pids = [pid for pid, _ in owners]
    del owners, small, stored
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "their ends")
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "the return of the CPUs")


@pytest.mark.parametrize("kind", ["task", "retried", "method", "stream"])
def test_refs_in_exceptions(kind: str, tmp_path: Path) -> None:
    class Carrier(Exception):
        def __init__(self, ref: nbray.ObjectRef) -> None:
            super().__init__(ref)
            self.ref = ref

    def fail() -> None:
        raise Carrier(nbray.put(large()))

    def fail_twice() -> None:
        attempts = len(list(tmp_path.iterdir()))
        (tmp_path / str(attempts)).touch()
        fail()

    def items() -> Iterator[int]:
        yield 1
        fail()

    @nbray.remote
    class Failing:
        def method(self) -> None:
            fail()

    actor = Failing.remote()
    ref = {
        "task": lambda: nbray.remote(fail).remote(),
        "retried": lambda: nbray.remote(max_retries=1, retry_exceptions=True)(fail_twice).remote(),
        "method": lambda: actor.method.remote(),
        "stream": lambda: list(nbray.remote(items).remote())[-1],
    }[kind]()
    with pytest.raises(TaskError) as raised:
        nbray.get(ref)
    error = raised.value
    assert error.cause is not None and len(nbray.get(error.cause.ref)) == MB
    del ref, raised, error
    gc.collect()
    # The actor and the workers live on: what they raised is not theirs to keep.
    marker = nbray.put(large())
    wait_until(lambda: in_store() > 0, "a new report")
    del marker
    wait_until(lambda: in_store() == 0, "the end of what the exception carried")
