"""Pools of threads where the machine has no more threads for a moment."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest
from support.no_threads import no_thread_left

from nbray.common.threads import ThreadPool


def test_what_is_refused_is_not_done_later() -> None:
    pool, gate, done = ThreadPool(2, "pool"), threading.Event(), list[str]()
    first = pool.submit(gate.wait, 60)
    with no_thread_left(), pytest.raises(RuntimeError, match="new thread"):
        pool.submit(done.append, "refused")
    gate.set()
    assert first.result(60)
    pool.submit(done.append, "later").result(60)
    pool.shutdown()
    assert done == ["later"]


def test_answers_and_errors_come_and_what_a_pool_has_not_begun_ends_with_it() -> None:
    pool, gate, begun = ThreadPool(1, "pool"), threading.Event(), threading.Event()

    def stand() -> int:
        begun.set()
        gate.wait(60)
        return 42

    def fail() -> None:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        pool.submit(fail).result(60)
    running, waiting = pool.submit(stand), pool.submit(stand)
    assert begun.wait(60)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(60)
    gate.set()
    assert running.result(60) == 42
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(stand)
