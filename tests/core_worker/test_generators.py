"""Streaming generators: refs come as they are yielded, to one reader, and are freed."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.terminal import Terminal

import nbray
from nbray.testing import wait_until


@nbray.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


def test_a_generator_streams_by_default(module_cluster: Path) -> None:
    stream = count.remote(100)
    assert isinstance(stream, nbray.ObjectRefGenerator)
    assert [nbray.get(ref) for ref in stream] == list(range(100))
    with pytest.raises(StopIteration):
        next(stream)
    assert stream.is_finished()
    assert nbray.get(stream.completed(), timeout=30) is None


def test_items_come_before_the_task_ends(module_cluster: Path) -> None:
    @nbray.remote
    def slow(gate: str) -> Iterator[str]:
        yield "first"
        while not os.path.exists(gate):
            time.sleep(0.01)
        yield "second"

    gate = module_cluster / "gate"
    stream = slow.remote(str(gate))
    assert nbray.get(next(stream), timeout=30) == "first"
    assert not stream.next_ready()
    gate.touch()
    try:
        assert nbray.get(next(stream), timeout=30) == "second"
    finally:
        gate.unlink()


def test_an_exception_is_the_last_item(module_cluster: Path) -> None:
    @nbray.remote
    def breaks() -> Iterator[int]:
        yield 1
        raise ValueError("after one")

    stream = breaks.remote()
    assert nbray.get(next(stream), timeout=30) == 1
    with pytest.raises(ValueError, match="after one"):
        nbray.get(next(stream), timeout=30)
    with pytest.raises(StopIteration):
        next(stream)
    assert nbray.get(stream.completed(), timeout=30) is None


def test_a_stream_that_did_not_come_to_its_end_says_so_when_it_is_waited_for(
    module_cluster: Path,
) -> None:
    @nbray.remote(max_retries=0)
    def ends(how: str) -> Iterator[int]:
        if how == "crash":
            os._exit(1)
        elif how == "raise":
            raise KeyError(how)
        yield 1

    fails = nbray.remote(lambda: 1 // 0)
    at_once = ends.remote("raise")
    assert nbray.get(at_once.completed(), timeout=30) is None
    with pytest.raises(KeyError):
        nbray.get(next(at_once))
    for stream, error in (
        (ends.remote("crash"), nbray.exceptions.WorkerCrashedError),
        (ends.remote(fails.remote()), ZeroDivisionError),
    ):
        with pytest.raises(error):
            nbray.get(stream.completed(), timeout=30)


def test_refs_in_what_a_stream_raised_are_kept_with_it_and_let_go_with_it(
    module_cluster: Path,
) -> None:
    class WithRef(Exception):
        def __init__(self, refs: list[nbray.ObjectRef]) -> None:
            super().__init__("it has a ref")
            self.refs = refs

    @nbray.remote
    def breaks() -> Iterator[int]:
        yield 1
        raise WithRef([nbray.put(np.ones(100_000))])

    def objects() -> float:
        return float(nbray.nodes()[0]["Stats"]["objects"])

    stream = breaks.remote()
    refs = list(stream)
    with pytest.raises(WithRef) as caught:
        nbray.get(refs[-1], timeout=30)
    assert nbray.get(caught.value.refs[0], timeout=30).sum() == 100_000
    wait_until(lambda: objects() == 1, "the array in the store")
    del caught, refs, stream
    wait_until(lambda: gc.collect() >= 0 and objects() == 0, "the array to be freed")


def test_back_pressure_holds_the_worker_back(module_cluster: Path) -> None:
    @nbray.remote
    class Seen:
        def __init__(self) -> None:
            self.most = 0

        def note(self, i: int) -> None:
            self.most = max(self.most, i)

        def get(self) -> int:
            return self.most

    @nbray.remote(_generator_backpressure_num_objects=3)
    def ahead(seen: nbray.ActorHandle) -> Iterator[int]:
        for i in range(20):
            nbray.get(seen.note.remote(i))
            yield i

    seen = Seen.remote()
    stream = ahead.remote(seen)
    assert nbray.get(next(stream), timeout=30) == 0
    wait_until(lambda: nbray.get(seen.get.remote()) == 4, "the worker to be three items ahead")
    assert nbray.get(seen.get.remote()) == 4
    assert [nbray.get(ref, timeout=30) for ref in stream] == list(range(1, 20))


def test_large_items_are_freed_when_the_reader_goes(module_cluster: Path) -> None:
    @nbray.remote
    def arrays(n: int) -> Iterator[np.ndarray]:
        for i in range(n):
            yield np.full(100_000, i)

    def objects() -> float:
        return float(nbray.nodes()[0]["Stats"]["objects"])

    stream = arrays.remote(10)
    kept = [next(stream) for _ in range(3)]
    assert [int(nbray.get(ref)[0]) for ref in kept] == [0, 1, 2]
    nbray.get(stream.completed(), timeout=30)
    wait_until(lambda: objects() == 10, "all items in the store")
    del stream
    wait_until(lambda: objects() == 3, "the items that nobody took to be freed")
    del kept
    wait_until(lambda: objects() == 0, "all to be freed")


def test_a_stream_goes_on_after_its_worker_died(module_cluster: Path, tmp_path: Path) -> None:
    @nbray.remote(max_retries=1)
    def fragile(marker: str) -> Iterator[int]:
        for i in range(6):
            if i == 3 and not os.path.exists(marker):
                open(marker, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            yield i

    stream = fragile.remote(str(tmp_path / "died"))
    assert [nbray.get(ref, timeout=30) for ref in stream] == list(range(6))


def test_streams_of_actors_and_async_iteration(module_cluster: Path) -> None:
    @nbray.remote
    class Sync:
        def up_to(self, n: int) -> Iterator[int]:
            yield from range(n)

    @nbray.remote
    class Async:
        async def up_to(self, n: int) -> AsyncIterator[int]:
            for i in range(n):
                await asyncio.sleep(0)
                yield i

    async def read(stream: nbray.ObjectRefGenerator) -> list[int]:
        return [await ref async for ref in stream]

    for actor in (Sync.remote(), Async.remote()):
        assert asyncio.run(read(actor.up_to.remote(20))) == list(range(20))


def test_wait_takes_generators(module_cluster: Path) -> None:
    stream, ref = count.remote(1), nbray.put(1)
    ready, rest = nbray.wait([stream, ref], num_returns=2, timeout=30)
    assert ready == [stream, ref]
    assert rest == []


def test_refs_inside_items_stay_alive(module_cluster: Path) -> None:
    @nbray.remote
    def nested(n: int) -> Iterator[list[nbray.ObjectRef]]:
        for i in range(n):
            yield [nbray.put(np.full(50_000, i))]

    items = [nbray.get(ref, timeout=30) for ref in nested.remote(4)]
    assert [int(nbray.get(inner, timeout=30)[0]) for (inner,) in items] == [0, 1, 2, 3]


def test_dynamic_returns_come_all_at_once(module_cluster: Path) -> None:
    @nbray.remote(num_returns="dynamic")
    def some(n: int) -> Iterator[np.ndarray]:
        for i in range(n):
            yield np.full(30_000, i)

    refs = nbray.get(some.remote(3), timeout=30)
    assert len(refs) == 3
    assert [int(nbray.get(ref, timeout=30)[0]) for ref in refs] == [0, 1, 2]


def test_a_cancelled_stream_ends_with_the_error(module_cluster: Path) -> None:
    @nbray.remote
    def endless() -> Iterator[int]:
        i = 0
        while True:
            yield i
            i += 1
            time.sleep(0.01)

    stream = endless.remote()
    assert nbray.get(next(stream), timeout=30) == 0
    nbray.cancel(stream)
    with pytest.raises(nbray.exceptions.TaskCancelledError):
        for ref in stream:
            nbray.get(ref, timeout=30)


def test_a_generator_cannot_be_an_argument_and_the_error_is_short(module_cluster: Path) -> None:
    @nbray.remote
    def items() -> Iterator[int]:
        yield 1

    @nbray.remote
    def takes(stream: object) -> None: ...

    stream = items.remote()
    with pytest.raises(TypeError) as raised:
        takes.remote(stream)
    text = str(raised.value)
    assert text.startswith("Could not serialize the arguments: ")
    assert "Send its refs" in text and "_core" not in text
    assert nbray.get(next(stream)) == 1


def test_an_async_reader_that_gave_up_once_reads_on(module_cluster: Path, tmp_path: Path) -> None:
    @nbray.remote
    def items() -> Iterator[int]:
        while not (tmp_path / "go").exists():
            time.sleep(0.005)
        yield from range(3)

    async def read() -> list[int]:
        stream = items.remote()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.1)
        (tmp_path / "go").touch()
        return [await ref async for ref in stream]

    assert asyncio.run(asyncio.wait_for(read(), 30)) == [0, 1, 2]


@nbray.remote(num_returns=3, max_retries=0)
def three(n: int, fails: bool = False) -> Iterator[np.ndarray]:
    for i in range(n):
        yield np.full(30_000 if i % 2 else 1, i)
    if fails:
        raise ValueError("afterwards")


def seen(refs: list[nbray.ObjectRef]) -> list[object]:
    found: list[object] = []
    for ref in refs:
        try:
            found.append(int(nbray.get(ref, timeout=30)[0]))
        except ValueError as error:
            found.append(error.args[0])
    return found


def test_values_before_an_error_stay_and_those_after_the_last_are_left_out(
    module_cluster: Path, terminal: Terminal
) -> None:
    wrong = "Task returned 1 objects, but num_returns=3."
    assert seen(three.remote(1, True)) == [0, "afterwards", "afterwards"]
    assert seen(three.remote(2, True)) == [0, 1, "afterwards"]
    assert seen(three.remote(1)) == [0, wrong, wrong]
    assert seen(three.remote(3)) == [0, 1, 2]
    assert seen(three.remote(5)) == seen(three.remote(3, True)) == [0, 1, 2]
    wait_until(lambda: "three yields more than num_returns=3" in terminal.err, "a word")
    assert nbray.get(count.options(num_returns=1).remote(5), timeout=30) == 0

    @nbray.remote
    class Actor:
        def sync(self, n: int) -> Iterator[np.ndarray]:
            yield from map(np.atleast_1d, range(n))
            raise ValueError("afterwards")

        async def later(self, n: int) -> AsyncIterator[np.ndarray]:
            for i in range(n):
                yield np.atleast_1d(i)
            raise ValueError("afterwards")

    actor = Actor.remote()
    for method in (actor.sync.options(num_returns=3), actor.later.options(num_returns=3)):
        assert seen(method.remote(1)) == [0, "afterwards", "afterwards"]
        assert seen(method.remote(4)) == [0, 1, 2]

    dynamic = nbray.get(three.options(num_returns="dynamic").remote(2, True), timeout=30)
    assert seen(list(dynamic)) == [0, 1, "afterwards"]
    assert repr(dynamic) == "DynamicObjectRefGenerator(3 refs)"


def test_a_generator_that_is_run_again_makes_its_values_again(
    module_cluster: Path, tmp_path: Path
) -> None:
    @nbray.remote(num_returns=2, max_retries=3, retry_exceptions=[ValueError])
    def flaky(runs: Path) -> Iterator[np.ndarray]:
        with runs.open("a") as file:
            file.write("x")
        yield np.full(30_000, len(runs.read_text()))
        if len(runs.read_text()) < 3:
            raise ValueError
        yield np.full(30_000, 7)

    refs = flaky.remote(tmp_path / "runs")
    assert seen(refs) == [3, 7]
    del refs
    wait_until(lambda: nbray.nodes()[0]["Stats"]["objects"] == 0, "all attempts to be freed")


def test_streams_of_what_yields_nothing_are_refused() -> None:
    for num_returns in ("dynamic", "streaming"):
        with pytest.raises(ValueError, match="can only be used with generator functions"):
            nbray.remote(num_returns=num_returns)(len)


def test_a_stream_may_be_as_far_ahead_as_it_can(module_cluster: Path) -> None:
    @nbray.remote
    class Actor:
        def up_to(self, n: int) -> Iterator[int]:
            yield from range(n)

    actor = Actor.remote()
    free = {"_generator_backpressure_num_objects": -1}
    for stream in (
        count.options(**free).remote(50),
        actor.up_to.options(**free).remote(50),
    ):
        assert nbray.wait([stream], timeout=30)[0] == [stream]
        assert [nbray.get(ref, timeout=30) for ref in stream] == list(range(50))
        assert not stream.next_ready() and nbray.wait([stream], timeout=30)[0] == [stream]


def test_each_item_has_one_of_many_readers(module_cluster: Path, tmp_path: Path) -> None:
    @nbray.remote
    def items(n: int) -> Iterator[int]:
        while not (tmp_path / "go").exists():
            time.sleep(0.005)
        yield from range(n)

    stream = items.remote(200)
    got: list[int] = []

    def read() -> None:
        got.extend(nbray.get(ref, timeout=30) for ref in stream)

    async def read_async() -> None:
        async def one() -> None:
            got.extend([await ref async for ref in stream])

        readers = asyncio.gather(*(one() for _ in range(3)))
        (tmp_path / "go").touch()
        await asyncio.wait_for(readers, 60)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(read_async())
    for thread in threads:
        thread.join(60)
    assert sorted(got) == list(range(200))


def test_coroutines_that_wait_for_their_readers_hold_up_nobody(module_cluster: Path) -> None:
    @nbray.remote(num_cpus=0)
    class Yields:
        async def up_to(self, n: int) -> AsyncIterator[int]:
            for i in range(n):
                yield i

        async def in_a_thread(self) -> str:
            return await asyncio.to_thread(lambda: "done")

    actor = Yields.remote()
    method = actor.up_to.options(num_returns="streaming", _generator_backpressure_num_objects=1)
    streams = [method.remote(3) for _ in range(40)]
    assert nbray.get(actor.in_a_thread.remote(), timeout=30) == "done"
    for stream in reversed(streams):
        refs = [stream._next_sync(30) for _ in range(3)]
        assert not any(ref.is_nil() for ref in refs)
        assert nbray.get(refs, timeout=30) == [0, 1, 2]


def test_a_stream_takes_no_values_as_in_ray(module_cluster: Path) -> None:
    @nbray.remote
    def numbers() -> Iterator[int]:
        yield from range(2)

    stream = numbers.remote()
    for call in (lambda: stream.send(None), lambda: stream.throw(KeyError()), stream.close):
        with pytest.raises(NotImplementedError, match=r"`gen\.\w+` is not supported"):
            call()
    for later in (stream.asend(None), stream.athrow(KeyError()), stream.aclose()):
        with pytest.raises(NotImplementedError, match=r"`gen\.a\w+` is not supported"):
            asyncio.run(later)
    assert [nbray.get(ref, timeout=30) for ref in stream] == [0, 1]
