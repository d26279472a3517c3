"""A lost argument is there again before anything is taken for the task or actor that needs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.cluster_utils import Cluster
from nbray.launcher.local import RunningNode
from nbray.testing import wait_until


class Nodes:
    """A head without GPUs, and one node with the only one, which can be replaced."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}, connect=True)
        self.node: RunningNode
        self.start()

    def start(self) -> None:
        self.node = self.cluster.add_node(num_cpus=4, num_gpus=1, resources={"custom": 1})

    def lose(self) -> None:
        self.cluster.remove_node(self.node, allow_graceful=False)

    def replace(self) -> None:
        self.lose()
        self.start()


@pytest.fixture
def nodes(session_root: Path) -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


@nbray.remote(num_cpus=0)
def make() -> np.ndarray:
    return np.ones(100_000)


@nbray.remote(num_cpus=0)
def use(*arrays: np.ndarray) -> float:
    return float(sum(array.sum() for array in arrays))


@nbray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Model:
    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def total(self) -> tuple[float, str]:
        return float(self.weights.sum()), os.environ.get("CUDA_VISIBLE_DEVICES", "")


@nbray.remote(num_cpus=0)
class Owner:
    """Holds what it has submitted, and submits what needs what others own."""

    def make(self) -> list[nbray.ObjectRef]:
        self.ref = make.options(num_gpus=1).remote()
        nbray.wait([self.ref], timeout=30, fetch_local=False)
        return [self.ref]

    def use(self, refs: list[nbray.ObjectRef]) -> float:
        self.refs = refs  # what it knows of them is old when they have been lost
        return float(nbray.get(use.options(num_gpus=1).remote(*refs), timeout=60))


def here() -> dict[str, Any]:
    node_id = nbray.get_runtime_context().get_node_id()
    strategy = nbray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
    return {"scheduling_strategy": strategy}


@pytest.mark.parametrize(
    "only", [{"num_gpus": 1}, {"resources": {"custom": 1}}], ids=["gpu", "custom"]
)
def test_a_task_does_not_hold_what_the_maker_of_its_argument_needs(
    nodes: Nodes, only: dict[str, Any]
) -> None:
    refs = [make.options(**only).remote() for _ in range(2)]
    nbray.wait(refs, num_returns=2, timeout=30, fetch_local=False)
    nodes.replace()
    results = [use.options(**only).remote(*refs) for _ in range(3)]
    assert nbray.get(results, timeout=60) == [200_000.0] * 3


def test_a_task_that_waited_for_its_worker_waits_for_its_argument_instead(nodes: Nodes) -> None:
    ref = make.options(num_gpus=1).remote()
    nbray.wait([ref], timeout=30, fetch_local=False)
    nodes.lose()
    result = use.options(num_gpus=1).remote(ref)  # queued: no node has a GPU
    nodes.start()
    assert nbray.get(result, timeout=60) == 100_000.0


@pytest.mark.parametrize("owner_makes", [True, False])
def test_so_it_is_when_another_process_owns_the_argument(nodes: Nodes, owner_makes: bool) -> None:
    owner = Owner.options(**here()).remote()
    if owner_makes:
        refs = nbray.get(owner.make.remote(), timeout=60)
    else:
        refs = [make.options(num_gpus=1).remote()]
        assert nbray.get(owner.use.remote(refs), timeout=60) == 100_000.0
    nodes.replace()
    if owner_makes:
        assert nbray.get(use.options(num_gpus=1).remote(*refs), timeout=60) == 100_000.0
    else:
        assert nbray.get(owner.use.remote(refs), timeout=60) == 100_000.0


def test_an_actor_that_comes_back_waits_without_resources(nodes: Nodes) -> None:
    ref = make.options(num_gpus=1).remote()
    model = Model.options(num_gpus=1).remote(ref)
    assert nbray.get(model.total.remote(), timeout=60) == (100_000.0, "0")
    nodes.replace()
    assert nbray.get(model.total.remote(), timeout=60) == (100_000.0, "0")
    wait_until(lambda: "GPU" not in _free(), "the GPU to be the actor's")
    nodes.replace()  # it was not charged for waiting
    assert nbray.get(model.total.remote(), timeout=60) == (100_000.0, "0")


def _free() -> dict[str, float]:
    return {name: amount for name, amount in nbray.available_resources().items() if amount}


def test_an_actor_whose_argument_cannot_be_made_again_says_so(nodes: Nodes) -> None:
    ref = make.options(num_gpus=1, max_retries=0).remote()
    model = Model.options(num_gpus=1, max_task_retries=0).remote(ref)
    assert nbray.get(model.total.remote(), timeout=60)[0] == 100_000.0
    nodes.replace()
    with pytest.raises(nbray.exceptions.ActorDiedError, match="cannot be reconstructed"):
        while True:
            try:
                nbray.get(model.total.remote(), timeout=60)
            except nbray.exceptions.ActorUnavailableError:
                continue


def test_a_task_that_waits_for_a_lost_argument_can_be_cancelled(nodes: Nodes) -> None:
    ref = make.options(num_gpus=1).remote()
    nbray.wait([ref], timeout=30, fetch_local=False)
    nodes.lose()
    result = use.options(num_gpus=1).remote(ref)
    assert nbray.wait([result], timeout=0.5) == ([], [result])
    nbray.cancel(result)
    with pytest.raises(nbray.exceptions.TaskCancelledError):
        nbray.get(result, timeout=60)
