"""A value that died with its node is made again from its lineage."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nodes import MB, Far

import nbray
from nbray.testing import wait_until
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@nbray.remote(resources={"far": 1})
def make(value: float, log: str) -> np.ndarray:
    with open(log, "a") as file:
        file.write(f"make {value}\n")
    return np.full(500_000, value)


@nbray.remote(resources={"far": 1})
def double(array: np.ndarray, log: str) -> np.ndarray:
    with open(log, "a") as file:
        file.write("double\n")
    return array * 2


@nbray.remote
def total(array: np.ndarray) -> float:
    return float(array.sum())


def runs(log: Path, what: str) -> int:
    return log.read_text().count(what)


def test_a_lost_value_is_made_again(far: Far, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ref = make.remote(3.0, str(log))
    nbray.wait([ref], timeout=30)
    far.kill()
    far.start()
    assert nbray.get(ref, timeout=60)[-1] == 3.0
    assert runs(log, "make") == 2


def test_what_it_was_made_of_is_made_again_first(far: Far, tmp_path: Path) -> None:
    log = tmp_path / "log"
    doubled = double.remote(make.remote(2.0, str(log)), str(log))
    again = double.remote(doubled, str(log))
    nbray.wait([again], timeout=30)
    del doubled
    far.kill()
    far.start()
    assert nbray.get(again, timeout=60)[0] == 8.0
    assert runs(log, "make") == 2
    assert runs(log, "double") == 4


def test_an_argument_is_made_again_for_a_task(far: Far, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ref = make.remote(1.0, str(log))
    nbray.wait([ref], timeout=30)
    far.kill()
    far.start()
    assert nbray.get(total.remote(ref), timeout=60) == 500_000.0


def test_a_borrower_hears_when_it_is_there_again(far: Far, tmp_path: Path) -> None:
    @nbray.remote
    class Reader:
        def keep(self, refs: list[nbray.ObjectRef]) -> None:
            self.ref = refs[0]

        def read(self) -> float:
            return float(nbray.get(self.ref)[0])

    ref = make.remote(5.0, str(tmp_path / "log"))
    nbray.wait([ref], timeout=30)
    here = NodeAffinitySchedulingStrategy(nbray.get_runtime_context().get_node_id(), soft=False)
    reader = Reader.options(scheduling_strategy=here).remote()
    nbray.get(reader.keep.remote([ref]), timeout=30)
    far.kill()
    far.start()
    assert nbray.get(reader.read.remote(), timeout=60) == 5.0


def test_items_of_a_stream_are_made_again(far: Far) -> None:
    @nbray.remote(resources={"far": 1})
    def stream(n: int) -> Iterator[np.ndarray]:
        for i in range(n):
            yield np.full(200_000, i)

    refs = list(stream.remote(3))
    nbray.wait(refs, num_returns=3, timeout=30)
    far.kill()
    far.start()
    assert [int(nbray.get(ref, timeout=60)[0]) for ref in refs] == [0, 1, 2]


def test_what_may_not_be_run_again_says_so(far: Far, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    never = make.options(max_retries=0).remote(1.0, log)
    once = make.options(max_retries=1).remote(1.0, log)
    nbray.wait([never, once], num_returns=2, timeout=30)
    far.kill()
    far.start()
    with pytest.raises(nbray.exceptions.ObjectReconstructionFailedError, match="retried"):
        nbray.get(never, timeout=60)
    assert nbray.get(double.remote(once, log), timeout=60)[0] == 2.0
    far.kill()
    far.start()
    with pytest.raises(
        nbray.exceptions.ObjectReconstructionFailedMaxAttemptsExceededError, match="max_retries"
    ):
        nbray.get(once, timeout=60)


def test_lineage_keeps_no_values(far: Far, tmp_path: Path) -> None:
    def objects() -> float:
        rows = nbray.nodes()
        return float(sum(row["Stats"]["objects"] for row in rows if row["Alive"]))

    log = str(tmp_path / "log")
    ref = make.remote(1.0, log)
    for _ in range(5):
        ref = double.remote(ref, log)
    nbray.wait([ref], timeout=30)
    wait_until(lambda: objects() == 1, "the intermediate values to be freed")
    del ref
    wait_until(lambda: objects() == 0, "the last one to be freed")


def test_lineage_is_bounded(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_MAX_LINEAGE_BYTES", "2500")
    nbray.init(num_cpus=1, object_store_memory=100 * MB)
    far = Far()
    far.start()
    try:
        refs = [make.remote(float(i), str(tmp_path / "log")) for i in range(4)]
        nbray.wait(refs, num_returns=4, timeout=30)
        far.kill()
        far.start()
        with pytest.raises(nbray.exceptions.ObjectReconstructionFailedLineageEvictedError):
            nbray.get(refs[0], timeout=60)
        assert nbray.get(refs[3], timeout=60)[0] == 3.0
    finally:
        assert far.node is not None
        far.node.stop()


def test_the_process_that_made_it_is_not_needed(far: Far, tmp_path: Path) -> None:
    @nbray.remote(resources={"far": 1}, max_retries=2)
    def fragile(marker: str) -> np.ndarray:
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones(300_000)

    ref = fragile.remote(str(tmp_path / "marker"))
    nbray.wait([ref], timeout=30)
    far.kill()
    far.start()
    assert nbray.get(ref, timeout=60).sum() == 300_000
