"""Items of streams that were lost: made again by a task that runs, or is run again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nodes import Far

import nbray
from nbray.exceptions import ObjectReconstructionFailedError, WorkerCrashedError
from nbray.testing import wait_until


def count_run(log: Path) -> int:
    with log.open("a") as file:
        file.write("x")
    return log.stat().st_size


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


@nbray.remote(resources={"far": 1}, max_retries=-1)
def stream(log: Path, again: str = "the same", go: Path | None = None) -> Iterator[np.ndarray]:
    """Five items; run again it may raise, or end, before the fourth. It waits for ``go`` first."""
    run = count_run(log)
    for i in range(5):
        if i == 3 and go is not None:
            wait_for(go)
        if run > 1 and i == 3 and again == "raises":
            raise ValueError("not this time")
        if run > 1 and i == 3 and again == "fewer":
            return
        if run == 1 and i == 4 and again == "crashes":
            os.kill(os.getpid(), signal.SIGKILL)
        yield np.full(20_000, i)


def test_an_item_is_made_again_while_the_stream_runs(far: Far, tmp_path: Path) -> None:
    go = tmp_path / "go"
    generator = stream.remote(tmp_path / "log", go=go)
    refs = [next(generator) for _ in range(2)]
    far.kill()
    far.start()
    assert nbray.get(refs[0], timeout=60)[0] == 0
    go.touch()
    assert [nbray.get(ref, timeout=60)[0] for ref in [*refs, *generator]] == [0, 1, 2, 3, 4]


def test_items_of_a_stream_that_may_not_be_retried_say_what_happened(
    far: Far, tmp_path: Path
) -> None:
    generator = stream.options(max_retries=0).remote(tmp_path / "log", go=tmp_path / "go")
    first = next(generator)
    far.kill()
    with pytest.raises((WorkerCrashedError, ObjectReconstructionFailedError), match="retr"):
        nbray.get(first, timeout=60)


@pytest.mark.parametrize(
    ("again", "error", "text"),
    [
        ("raises", ValueError, "not this time"),
        ("fewer", ObjectReconstructionFailedError, "ended after 3 items"),
    ],
)
def test_items_that_do_not_come_again_are_errors(
    far: Far, tmp_path: Path, again: str, error: type[Exception], text: str
) -> None:
    refs = list(stream.remote(tmp_path / "log", again))
    nbray.wait(refs, num_returns=5, timeout=30, fetch_local=False)
    far.kill()
    far.start()
    for ref in refs[3:]:
        with pytest.raises(error, match=text):
            nbray.get(ref, timeout=60)
    assert [nbray.get(ref, timeout=60)[0] for ref in refs[:3]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("again", "error"), [("raises", ValueError), ("fewer", ObjectReconstructionFailedError)]
)
def test_a_running_stream_that_ends_earlier_than_before_ends_for_its_reader(
    far: Far, tmp_path: Path, again: str, error: type[Exception]
) -> None:
    @nbray.remote(resources={"far": 1}, max_retries=-1)
    def lost_half_way(log: Path, go: Path) -> Iterator[np.ndarray]:
        run = count_run(log)
        for i in range(2 if run > 1 else 5):
            yield np.full(20_000, i)
        if run == 1:
            wait_for(go)
        elif again == "raises":
            raise ValueError

    generator = lost_half_way.remote(tmp_path / "log", tmp_path / "go")
    refs = [next(generator) for _ in range(4)]
    far.kill()
    far.start()
    assert [nbray.get(ref, timeout=60)[0] for ref in refs[:2]] == [0, 1]
    rest = list(generator)
    for ref in [*refs[2:], *rest]:
        with pytest.raises(error):
            nbray.get(ref, timeout=60)


def test_a_stream_with_back_pressure_is_made_again_though_nobody_takes_its_items(
    far: Far, tmp_path: Path
) -> None:
    slow = stream.options(_generator_backpressure_num_objects=1)
    refs = list(slow.remote(tmp_path / "log"))
    nbray.get(refs[-1], timeout=30)
    far.kill()
    far.start()
    assert [nbray.get(ref, timeout=60)[0] for ref in refs] == [0, 1, 2, 3, 4]


def test_items_that_are_held_outlive_their_generator_and_a_retry(
    cluster: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    here = stream.options(resources={})
    generator = here.remote(tmp_path / "log", "crashes", go)
    refs = [next(generator) for _ in range(2)]
    completed = generator.completed()
    del generator
    go.touch()
    nbray.get(completed, timeout=60)  # it ran a second time
    assert (tmp_path / "log").stat().st_size == 2
    assert [nbray.get(ref, timeout=60)[0] for ref in refs] == [0, 1]
    del refs
    wait_until(lambda: nbray.nodes()[0]["Stats"]["objects"] == 0, "all items to be freed")


def test_items_of_a_dynamic_generator_are_made_again(far: Far, tmp_path: Path) -> None:
    ref = stream.options(num_returns="dynamic").remote(tmp_path / "log")
    items = list(nbray.get(ref, timeout=30))
    far.kill()
    far.start()
    assert [nbray.get(item, timeout=60)[0] for item in items] == [0, 1, 2, 3, 4]


def test_items_of_an_actors_stream_are_made_again(far: Far, tmp_path: Path) -> None:
    @nbray.remote(resources={"far": 1}, max_restarts=-1, max_task_retries=-1)
    class Source:
        def items(self, go: Path) -> Iterator[np.ndarray]:
            for i in range(4):
                if i == 3:
                    wait_for(go)
                yield np.full(20_000, i)

    go = tmp_path / "go"
    source = Source.remote()
    generator = source.items.options(num_returns="streaming").remote(go)
    first = next(generator)
    far.kill()
    far.start()
    assert nbray.get(first, timeout=60)[0] == 0  # while it runs
    go.touch()
    refs = [first, *generator]
    far.kill()
    far.start()
    assert [nbray.get(ref, timeout=60)[0] for ref in refs] == [0, 1, 2, 3]  # and afterwards
