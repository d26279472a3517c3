"""Arguments of an async actor's calls come while its other calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from support.nodes import Far
from support.stopping import stand_still

import nbray
from nbray.exceptions import TaskCancelledError
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@nbray.remote(num_cpus=0)
class Sums:
    """Says what it is asked, and adds up what it is given."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    async def ping(self) -> str:
        await asyncio.sleep(0)
        return "pong"

    async def sum(self, *arrays: np.ndarray, more: np.ndarray | int = 0) -> float:
        self.sums.append(float(sum(array.sum() for array in arrays) + np.sum(more)))
        return self.sums[-1]


@nbray.remote(resources={"far": 1}, num_cpus=0)
def ones(count: int) -> np.ndarray:
    return np.ones(count)


def sums_here() -> nbray.ActorHandle:
    """On the driver's node, and ready."""
    here = NodeAffinitySchedulingStrategy(nbray.get_runtime_context().get_node_id(), soft=False)
    sums = Sums.options(scheduling_strategy=here).remote()
    assert nbray.get(sums.ping.remote(), timeout=60) == "pong"
    return sums


@contextmanager
def standing_still(far: Far) -> Iterator[None]:
    """The other node's raylet sends nothing meanwhile."""
    assert far.node is not None
    raylet = psutil.Process(far.node.children[-1].pid)
    stand_still(raylet.pid)
    try:
        yield
    finally:
        raylet.resume()


def test_a_loop_goes_on_while_the_argument_of_a_call_is_on_its_way(far: Far) -> None:
    sums = sums_here()
    large = [ones.remote(200_000 + index) for index in range(3)]
    nbray.wait(large, num_returns=3, timeout=60, fetch_local=False)
    with standing_still(far):
        several = sums.sum.remote(*large, large[0], more=large[1])
        assert nbray.get(sums.ping.remote(), timeout=20) == "pong"
        dropped = sums.sum.remote(large[2])
        assert nbray.get([sums.ping.remote() for _ in range(100)], timeout=20) == 100 * ["pong"]
        nbray.cancel(dropped)
        with pytest.raises(TaskCancelledError):
            nbray.get(dropped, timeout=20)
    assert nbray.get(several, timeout=60) == 600_003 + 200_000 + 200_001
    assert nbray.get(sums.sum.remote(large[2]), timeout=60) == 200_002


def test_a_loop_goes_on_while_a_lost_argument_is_made_again(far: Far) -> None:
    sums = sums_here()
    lost = ones.remote(300_000)
    nbray.wait([lost], timeout=60, fetch_local=False)
    far.kill()
    total = sums.sum.remote(lost)
    assert nbray.get(sums.ping.remote(), timeout=20) == "pong"
    far.start()
    assert nbray.get(total, timeout=60) == 300_000


def test_arguments_that_are_more_than_a_call_takes_along_are_asked_of_their_owner(
    cluster: object,
) -> None:
    sums = sums_here()
    refs = [nbray.put(np.full(5_000, index)) for index in range(60)]
    calls = [sums.sum.remote(*refs), sums.sum.remote(*refs, more=refs[1])]
    assert nbray.get(calls, timeout=60) == [1770 * 5_000, 1771 * 5_000]
