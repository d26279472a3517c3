"""What lineage keeps of arguments: entries, or values where nothing could make them again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.nodes import MB, Far

import nbray
from nbray.driver.driver import current_core
from nbray.testing import wait_until


@nbray.remote(resources={"far": 1})
def double(array: np.ndarray) -> np.ndarray:
    return array * 2


@nbray.remote(resources={"far": 1})
def double_inner(refs: list[nbray.ObjectRef]) -> np.ndarray:
    return nbray.get(refs[0]) * 2


@nbray.remote
def ones() -> np.ndarray:
    return np.ones(100_000)


@nbray.remote
class Maker:
    def ones(self) -> np.ndarray:
        return np.ones(100_000)

    def double_far(self) -> list[nbray.ObjectRef]:
        """A task whose owner is this actor."""
        ref = double.remote(nbray.put(np.ones(100_000)))
        nbray.wait([ref], timeout=30, fetch_local=False)
        return [ref]


def objects() -> float:
    return float(sum(row["Stats"]["objects"] for row in nbray.nodes() if row["Alive"]))


def here() -> dict[str, object]:
    node_id = nbray.get_runtime_context().get_node_id()
    return {
        "scheduling_strategy": nbray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            node_id, soft=False
        )
    }


def test_arguments_that_cannot_be_made_again_are_kept(far: Far) -> None:
    maker = Maker.options(**here()).remote()
    results = {
        "a put": double.remote(nbray.put(np.ones(100_000))),
        "a large value": double.remote(np.ones(100_000)),
        "of a task that may not be retried": double.remote(
            ones.options(max_retries=0, **here()).remote()
        ),
        "of a call that may not be retried": double.remote(maker.ones.remote()),
        "inside an argument": double_inner.remote([nbray.put(np.ones(100_000))]),
        "of another owner": nbray.get(maker.double_far.remote(), timeout=30)[0],
    }
    nbray.wait(list(results.values()), num_returns=len(results), timeout=30, fetch_local=False)
    far.kill()
    far.start()
    sums = {what: nbray.get(ref, timeout=60).sum() for what, ref in results.items()}
    assert sums == dict.fromkeys(results, 200_000)
    far.kill()  # and once more: they are still kept
    far.start()
    assert nbray.get(results["a put"], timeout=60).sum() == 200_000


def test_a_kept_argument_ends_with_what_was_made_of_it(far: Far) -> None:
    result = double.remote(nbray.put(np.ones(100_000)))
    nbray.wait([result], timeout=30, fetch_local=False)
    wait_until(lambda: objects() == 3, "result, argument and its copy")
    del result
    wait_until(lambda: objects() == 0, "the end of the argument, too")


def test_values_that_only_lineage_needs_are_bounded(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_MAX_LINEAGE_VALUE_BYTES", str(2 * MB))
    nbray.init(num_cpus=1, object_store_memory=100 * MB)
    far = Far()
    far.start()
    try:
        results = [double.remote(nbray.put(np.full(100_000, float(i)))) for i in range(4)]
        nbray.wait(results, num_returns=4, timeout=30, fetch_local=False)
        too_large = double.remote(nbray.put(np.ones(400_000)))
        nbray.wait([too_large], timeout=30, fetch_local=False)
        far.kill()
        far.start()
        for result in results:
            with pytest.raises(
                nbray.exceptions.ObjectReconstructionFailedLineageEvictedError, match="VALUE_BYTES"
            ):
                nbray.get(result, timeout=60)
        assert nbray.get(too_large, timeout=60).sum() == 800_000  # the newest is always kept
    finally:
        assert far.node is not None
        far.node.stop()


def test_a_value_that_is_lost_for_good_costs_no_resources(far: Far) -> None:
    lost = double.options(max_retries=0).remote(np.ones(100_000))
    results = [double.remote(lost) for _ in range(3)]
    nbray.wait([lost, *results], num_returns=4, timeout=30, fetch_local=False)
    del lost
    far.kill()
    far.start()
    for result in results:
        with pytest.raises(nbray.exceptions.ObjectReconstructionFailedError):
            nbray.get(result, timeout=60)
    wait_until(lambda: nbray.available_resources().get("far") == 4, "the leases to come back")
    assert nbray.get(double.remote(np.ones(1)), timeout=60)[0] == 2


def test_a_long_chain_is_made_again(far: Far) -> None:
    ref = double.remote(np.zeros(20_000))
    for _ in range(300):
        ref = double.remote(ref)
    nbray.wait([ref], timeout=120, fetch_local=False)
    far.kill()
    far.start()
    assert nbray.get(ref, timeout=120).sum() == 0


def test_calls_keep_their_order_when_an_argument_is_made_again(far: Far) -> None:
    @nbray.remote
    class Log:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def note(self, number: int, _argument: object) -> list[int]:
            self.seen.append(number)
            return self.seen

    log = Log.options(**here()).remote()
    nbray.get(log.note.remote(0, None), timeout=30)
    lost = double.remote(np.ones(100_000))
    nbray.wait([lost], timeout=30, fetch_local=False)
    far.kill()
    far.start()
    core = current_core()
    wait_until(lambda: core.table[lost.binary()].value is None, "the loss to be heard of")
    calls = [log.note.remote(number, lost) for number in range(1, 4)]
    assert nbray.get(calls[-1], timeout=60) == [0, 1, 2, 3]


def test_so_it_is_for_calls_that_are_made_again(far: Far) -> None:
    @nbray.remote(resources={"far": 1}, max_restarts=-1, max_task_retries=-1)
    class Doubler:
        def double(self, array: np.ndarray) -> np.ndarray:
            return array * 2

    doubler = Doubler.remote()
    result = doubler.double.remote(nbray.put(np.ones(100_000)))
    nbray.wait([result], timeout=30, fetch_local=False)
    far.kill()
    far.start()
    assert nbray.get(result, timeout=60).sum() == 200_000
