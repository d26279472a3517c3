"""Several copies of an object: who knows them, who keeps them, and what a dead node takes along."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.driver.driver import current_core
from nbray.driver.joining import find_session
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import RunningNode, join
from nbray.testing import wait_until
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MB = 1 << 20


@pytest.fixture(params=["memory", pytest.param("sockets", marks=pytest.mark.slow)])
def nodes(
    session_root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[RunningNode]]:
    """Two nodes beside the head, with the resources "a" and "b", and how objects come there."""
    monkeypatch.setenv("NBRAY_SHARE_MACHINE_MEMORY", str(int(request.param == "memory")))
    facts = nbray.init(num_cpus=1, object_store_memory=60 * MB)
    head, info = find_session(facts["address"])
    joined: list[RunningNode] = []
    try:
        for name in "ab":
            joined.append(
                join(
                    info["gcs_address"],
                    NodeOptions({"CPU": 2, name: 4}, object_store_memory=60 * MB),
                    token=head.token, fate_shared=True,
                )
            )  # fmt: skip
        yield joined
    finally:
        for node in joined:
            node.stop()


@nbray.remote
def make(value: int) -> np.ndarray:
    return np.full(MB, value)  # 8 MB


@nbray.remote
def first(array: np.ndarray) -> int:
    return int(array[0])


@nbray.remote
class Reader:
    def hold(self, refs: list[nbray.ObjectRef]) -> None:
        self.refs = refs

    def read(self) -> int:
        return int(nbray.get(self.refs[0], timeout=60)[0])


def holders(ref: nbray.ObjectRef) -> list[str]:
    entry = current_core().table.get(ref.binary())
    assert entry is not None and entry.value is not None and entry.value.stored is not None
    return [node.hex() for node in entry.value.stored.node_ids]


def objects_on(node: RunningNode) -> float:
    (row,) = [row for row in nbray.nodes() if row["NodeID"] == node.node_id]
    return float(row["Stats"]["objects"])


def kill(node: RunningNode) -> None:
    os.kill(node.children[-1].pid, signal.SIGKILL)


def is_dead(node: RunningNode) -> bool:
    return not next(row["Alive"] for row in nbray.nodes() if row["NodeID"] == node.node_id)


def test_a_value_outlives_its_node_when_another_has_a_copy(nodes: list[RunningNode]) -> None:
    a, b = nodes
    ref = make.options(resources={"a": 1}).remote(7)
    reader = Reader.options(resources={"b": 1}).remote()  # a borrower that knows only the primary
    nbray.wait([ref], timeout=30)
    nbray.get(reader.hold.remote([ref]), timeout=30)
    assert nbray.get(first.options(resources={"b": 1}).remote(ref), timeout=30) == 7
    both = [a.node_id, b.node_id]
    wait_until(lambda held=ref: holders(held) == both, "the owner to hear of the copy")
    kill(a)
    assert nbray.get(reader.read.remote(), timeout=60) == 7
    assert nbray.get(ref, timeout=60)[-1] == 7
    wait_until(lambda held=ref: holders(held)[0] == b.node_id, "the other copy to be the primary")
    # It is the only one, so it is spilled rather than dropped when room is needed there.
    fill = [make.options(resources={"b": 1}).remote(i) for i in range(12)]
    nbray.wait(fill, num_returns=12, timeout=60)
    del fill
    assert nbray.get(first.options(resources={"b": 1}).remote(ref), timeout=60) == 7
    del ref
    nbray.get(reader.hold.remote([]), timeout=30)
    wait_until(lambda: objects_on(b) == 0, "all objects to be freed")


def test_a_borrower_asks_the_owner_when_it_knows_only_dead_nodes(
    nodes: list[RunningNode],
) -> None:
    a = nodes[0]
    ref = make.options(resources={"a": 1}).remote(3)
    here = NodeAffinitySchedulingStrategy(nbray.get_runtime_context().get_node_id(), soft=False)
    reader = Reader.options(num_cpus=0, scheduling_strategy=here).remote()
    nbray.wait([ref], timeout=30)
    nbray.get(reader.hold.remote([ref]), timeout=30)
    assert nbray.get(first.options(resources={"b": 1}).remote(ref), timeout=30) == 3
    wait_until(lambda: len(holders(ref)) == 2, "the owner to hear of the copy")
    kill(a)
    wait_until(lambda: is_dead(a), "the node to be declared dead")
    assert nbray.get(reader.read.remote(), timeout=60) == 3


def test_the_owner_hears_when_a_copy_makes_room(nodes: list[RunningNode]) -> None:
    a = nodes[0]
    ref = make.options(resources={"a": 1}).remote(1)
    assert nbray.get(first.options(resources={"b": 1}).remote(ref), timeout=30) == 1
    wait_until(lambda: len(holders(ref)) == 2, "the owner to hear of the copy")
    fill = [make.options(resources={"b": 1}).remote(i) for i in range(8)]
    nbray.wait(fill, num_returns=8, timeout=60)
    wait_until(lambda: holders(ref) == [a.node_id], "the owner to hear that it has gone")


def test_what_a_dead_nodes_processes_owned_is_freed_elsewhere(nodes: list[RunningNode]) -> None:
    a, b = nodes

    @nbray.remote(max_retries=0)
    def owner() -> None:
        ref = make.options(resources={"b": 1}).remote(5)
        nbray.wait([ref])
        time.sleep(600)

    pending = owner.options(resources={"a": 1}).remote()
    wait_until(lambda: objects_on(b) == 1, "the object of the far owner")
    kill(a)
    wait_until(lambda: objects_on(b) == 0, "the object to go with its owner")
    del pending


# --- what nobody heard of --------------------


class Bomb:
    """Ends the process that pickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        time.sleep(0.2)  # what was stored before is sealed by then
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it has ended")


def used() -> float:
    return sum(float(row["Stats"]["store_used"]) for row in nbray.nodes() if row["Alive"])


class Markers:
    """Objects of one size: a report of the store that counts the last one is a new report."""

    def __init__(self) -> None:
        self._refs = [nbray.put(np.zeros(MB // 8))]
        wait_until(lambda: used() > 0, "a report of the marker")
        self._size = used()

    def wait_until_nothing_else_is_left(self, what: str) -> None:
        self._refs.append(nbray.put(np.zeros(MB // 8)))
        wait_until(lambda: used() == 2 * self._size, f"{what} to be freed")


def test_a_value_whose_maker_died_before_it_could_tell_is_freed(cluster: Path) -> None:
    @nbray.remote(num_returns=2, max_retries=0)
    def half() -> tuple[np.ndarray, Bomb]:
        return np.ones(MB), Bomb()

    markers = Markers()
    first, _second = half.remote()
    with pytest.raises(nbray.exceptions.WorkerCrashedError):
        nbray.get(first, timeout=30)
    markers.wait_until_nothing_else_is_left("the value whose ref is held")


def test_a_value_that_is_told_of_outlives_its_maker(cluster: Path) -> None:
    @nbray.remote
    class Maker:
        def make(self) -> np.ndarray:
            return np.ones(MB)

    maker = Maker.remote()
    ref = maker.make.remote()
    nbray.wait([ref], timeout=30)
    nbray.kill(maker)
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(maker.make.remote(), timeout=30)
    time.sleep(0.3)  # longer than the news of the death takes
    assert nbray.get(ref, timeout=30).sum() == MB


def test_a_value_made_for_a_dead_owner_is_freed(cluster: Path, tmp_path: Path) -> None:
    @nbray.remote(num_cpus=0)
    class Slow:
        def make(self, folder: str) -> np.ndarray:
            Path(folder, "began").touch()
            while not Path(folder, "go").exists():
                time.sleep(0.01)
            return np.ones(MB)

        def ping(self) -> None: ...

    @nbray.remote(max_retries=0)
    def caller(slow: Any, folder: str) -> None:
        ref = slow.make.remote(folder)
        while not Path(folder, "began").exists():
            time.sleep(0.01)
        del ref
        os.kill(os.getpid(), signal.SIGKILL)

    markers = Markers()
    slow = Slow.remote()
    with pytest.raises(nbray.exceptions.WorkerCrashedError):
        nbray.get(caller.remote(slow, str(tmp_path)), timeout=30)
    (tmp_path / "go").touch()
    nbray.get(slow.ping.remote(), timeout=30)
    markers.wait_until_nothing_else_is_left("the value without an owner")
