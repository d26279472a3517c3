"""The threads of a threaded actor: as many as are needed, and no more."""

from __future__ import annotations

import threading

import pytest
from support.no_threads import no_thread_left

from nbray.core_worker.run.call_pool import CallPool


def test_calls_run_side_by_side_up_to_the_size_and_the_rest_waits() -> None:
    pool, gate = CallPool("", 3), threading.Barrier(4)
    names: set[str] = set()
    ended = threading.Semaphore(0)

    def call() -> None:
        names.add(threading.current_thread().name)
        gate.wait(30)
        ended.release()

    for _ in range(6):
        pool.start(call)
    for _ in range(2):  # three at a time, with this thread
        gate.wait(30)
    for _ in range(6):
        assert ended.acquire(timeout=30)
    assert names == {"nbray-actor-1", "nbray-actor-2", "nbray-actor-3"}


def test_calls_one_after_the_other_use_one_thread() -> None:
    pool = CallPool("io", 100)
    names: set[str] = set()
    for _ in range(50):
        done = threading.Event()

        def call(done: threading.Event = done) -> None:
            names.add(threading.current_thread().name)
            done.set()

        pool.start(call)
        assert done.wait(30)
    # The end of a call is counted a moment after it is seen.
    assert len(names) <= 25 and all(name.startswith("nbray-actor-io-") for name in names)


def test_where_no_thread_can_be_started_those_that_there_are_serve_all() -> None:
    pool, gate, names = CallPool("", 3), threading.Event(), list[str]()
    ended = threading.Semaphore(0)

    def call() -> None:
        gate.wait(30)
        names.append(threading.current_thread().name)
        ended.release()

    with no_thread_left(), pytest.raises(RuntimeError, match="new thread"):
        pool.start(ended.release)  # nobody would run it
    pool.start(call)
    with no_thread_left():
        pool.start(call)
    pool.start(call)
    gate.set()
    for _ in range(4):
        assert ended.acquire(timeout=30)
    assert set(names) <= {"nbray-actor-1", "nbray-actor-2"}


def test_a_call_that_fails_ends_no_thread() -> None:
    pool, done = CallPool("", 1), threading.Event()

    def fail() -> None:
        raise ValueError("of our own code")

    pool.start(fail)
    pool.start(done.set)
    assert done.wait(30)


def test_what_a_call_refers_to_is_let_go_when_it_ends() -> None:
    pool = CallPool("", 1)
    gone = threading.Event()

    class Large:
        def __del__(self) -> None:
            gone.set()

    pool.start(lambda large: None, Large())
    assert gone.wait(30)
