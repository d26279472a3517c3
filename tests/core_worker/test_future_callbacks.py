"""Callbacks of futures may use the cluster; what may not is told so, and nothing stands still."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.core_worker.current import joined_core
from nbray.core_worker.values.callbacks import HelperThreads
from nbray.exceptions import NbraySystemError
from nbray.util.executor import NbrayExecutor


@pytest.fixture(scope="module")
def cluster(module_cluster: Path) -> Path:
    return module_cluster


@nbray.remote
def inc(x: int) -> int:
    return x + 1


@nbray.remote(num_cpus=0)
class Pinged:
    def ping(self) -> int:
        return 1


@pytest.mark.parametrize(
    "use",
    [
        lambda value: nbray.get(inc.remote(value)),
        lambda value: len(nbray.get(nbray.put(np.zeros(3_000_000)))),
        lambda value: nbray.get(Pinged.options(name="of a callback").remote().ping.remote()),
        lambda value: nbray.wait([inc.remote(value)])[0],
        lambda value: inc.remote(value).future().result(),
        lambda value: NbrayExecutor().submit(pow, value, 2).result(),
        lambda value: asyncio.run(asyncio.wait_for(inc.remote(value), 20)),
        lambda value: list(nbray.nodes()),
    ],
)
def test_a_callback_uses_the_cluster(cluster: Path, use: Callable[[Any], Any]) -> None:
    for first in (inc.remote(1), nbray.put(np.ones(1_000_000))):
        heard: queue.Queue[Any] = queue.Queue()

        def call(done: Any, heard: queue.Queue[Any] = heard) -> None:
            done.result()
            heard.put(use(2))

        first.future().add_done_callback(call)
        assert heard.get(timeout=30)
    assert nbray.get(inc.remote(1), timeout=30) == 2


def test_callbacks_that_wait_for_others_behind_them_come_to_their_ends(
    cluster: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    @nbray.remote
    def gated() -> None:
        while not gate.exists():
            threading.Event().wait(0.01)

    heard: queue.Queue[int] = queue.Queue()
    ended = [threading.Event() for _ in range(4)]
    for number in range(4):

        def call(_done: Any, number: int = number) -> None:
            if number < 3:
                ended[number + 1].wait(30)
            heard.put(number)
            ended[number].set()

        gated.remote().future().add_done_callback(call)
    gate.touch()
    assert [heard.get(timeout=20) for _ in ended] == [3, 2, 1, 0]


def test_ten_thousand_callbacks_need_few_threads_and_keep_their_order(cluster: Path) -> None:
    before, heard, most = threading.active_count(), [], 0

    def call(done: Any) -> None:
        nonlocal most
        most = max(most, threading.active_count())
        heard.append(done.result())

    refs = [nbray.put(i) for i in range(2)] + [inc.remote(i) for i in range(5000)]
    for ref in refs:
        ref.future().add_done_callback(call)
    ended = threading.Event()
    inc.remote(0).future().add_done_callback(lambda _done: ended.set())
    nbray.get(refs, timeout=60)
    assert ended.wait(30)
    while len(heard) < len(refs):
        threading.Event().wait(0.01)
    assert most - before < 20


def test_a_callback_that_raises_hurts_no_other(cluster: Path) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    inc.remote(1).future().add_done_callback(lambda _done: 1 // 0)
    inc.remote(2).future().add_done_callback(lambda done: heard.put(done.result()))
    assert heard.get(timeout=30) == 3


class AsksWhenUnpickled:
    def __init__(self, ref: Any) -> None:
        self.ref = ref

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.value = nbray.get(state["ref"])


class CancelsWhenUnpickled(AsksWhenUnpickled):
    def __setstate__(self, state: dict[str, Any]) -> None:
        nbray.cancel(state["ref"], force=True)  # it asks whether a call is meant


@pytest.mark.parametrize("kind", [AsksWhenUnpickled, CancelsWhenUnpickled])
def test_what_cannot_wait_where_it_runs_is_told_so(cluster: Path, kind: Any) -> None:
    @nbray.remote
    def slow() -> int:
        threading.Event().wait(3)
        return 1

    future = nbray.put(kind(slow.remote())).future()
    with pytest.raises(NbraySystemError, match="Do it in a thread"):
        future.result(timeout=30)
    assert nbray.get(inc.remote(1), timeout=30) == 2


def test_callbacks_are_called_although_there_was_no_thread_for_them_at_first(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refusals = threading.Thread.start, iter([1, 2])

    def refuses(thread: threading.Thread) -> None:
        if thread.name == "test-callbacks" and next(refusals, None):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuses)
    helpers = HelperThreads(joined_core().reactor, "test-callbacks")
    called = threading.Event()
    helpers.run(called.set)
    assert called.wait(30)


def test_a_finalizer_may_complete_a_future_while_its_thread_has_one_called_back(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = HelperThreads(joined_core().peers.reactor, "finalized")
    ran: queue.Queue[str] = queue.Queue()
    start, nested = threads._start, [lambda: threads.run(lambda: ran.put("inner"))]

    def started_after_a_collection() -> None:
        for job in nested:
            nested.clear()
            job()
        start()

    monkeypatch.setattr(threads, "_start", started_after_a_collection)
    one = threading.Thread(target=lambda: threads.run(lambda: ran.put("outer")), daemon=True)
    one.start()
    assert {ran.get(timeout=20), ran.get(timeout=20)} == {"inner", "outer"}
