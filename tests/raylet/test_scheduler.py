"""Where work runs: two real nodes that follow the scheduler's decisions."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.nodes import join_here
from support.terminal import Terminal

import nbray
from nbray.launcher.local import RunningNode
from nbray.testing import Gate, kill_node, wait_until
from nbray.util.scheduling_strategies import (
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
)

MB = 1 << 20


# --- two nodes --------------------


@pytest.fixture
def second(session_root: Path) -> Iterator[RunningNode]:
    """A head node with one CPU, and this second node with two and the resource "far"."""
    nbray.init(num_cpus=1, object_store_memory=200 * MB)
    joined = join_here({"CPU": 2, "far": 4}, 200 * MB, labels={"zone": "far", "disk": "ssd"})
    try:
        yield joined
    finally:
        joined.stop()


@nbray.remote
def where(seconds: float = 0) -> str:
    time.sleep(seconds)
    return nbray.get_runtime_context().get_node_id()


@nbray.remote
def ones(count: int) -> np.ndarray:
    return np.ones(count)


@nbray.remote
def total(array: np.ndarray) -> float:
    return float(array.sum())


def far_objects(second: RunningNode) -> float:
    (row,) = [n for n in nbray.nodes() if n["NodeID"] == second.node_id]
    return float(row["Stats"]["objects"])


def home_objects(second: RunningNode) -> float:
    (row,) = [n for n in nbray.nodes() if n["NodeID"] != second.node_id]
    return float(row["Stats"]["objects"])


def test_tasks_go_where_their_resource_is_and_where_room_is(
    second: RunningNode, tmp_path: Path
) -> None:
    far = where.options(resources={"far": 1})
    assert nbray.get(far.remote(), timeout=30) == second.node_id
    wait_until(lambda: nbray.available_resources().get("CPU") == 3, "all CPUs to be free")
    gate = Gate(tmp_path)

    @nbray.remote
    def where_at_once() -> str:
        gate.wait_here()
        return nbray.get_runtime_context().get_node_id()

    refs = [where_at_once.remote() for _ in range(3)]
    gate.wait_for(3)
    gate.open()
    places = nbray.get(refs, timeout=30)
    assert sorted(places) == sorted([home_id(second), second.node_id, second.node_id])
    wait_until(lambda: nbray.available_resources().get("CPU") == 3, "all CPUs to be given back")


def test_a_request_that_no_node_can_serve_warns_and_is_served_when_a_node_joins(
    session_root: Path, terminal: Terminal
) -> None:
    nbray.init(num_cpus=1, object_store_memory=50 * MB)
    pending = where.options(resources={"late": 1}).remote()
    said = "can ever serve {'CPU': 1.0, 'late': 1.0}"
    wait_until(lambda: said in terminal.err, "a warning at the driver")
    assert "which lacks {'late': 1.0}" in terminal.err
    late = join_here({"late": 1}, 50 * MB)
    try:
        assert nbray.get(pending, timeout=20) == late.node_id
    finally:
        late.stop()


def test_an_actor_that_no_node_can_serve_warns_its_driver(
    session_root: Path, terminal: Terminal
) -> None:
    nbray.init(num_cpus=1, object_store_memory=50 * MB)

    @nbray.remote(resources={"moon": 1})
    class Far:
        pass

    handle = Far.remote()
    said = r"Actor Far: No node of the cluster can ever serve {.*'moon'"
    wait_until(lambda: re.search(said, terminal.err), "a warning at the driver")
    del handle


def home_id(second: RunningNode) -> str:
    (row,) = [n for n in nbray.nodes() if n["NodeID"] != second.node_id]
    return str(row["NodeID"])


def test_spread_tasks_use_both_nodes(second: RunningNode) -> None:
    spread = where.options(scheduling_strategy="SPREAD")
    places = nbray.get([spread.remote() for _ in range(20)], timeout=30)
    assert set(places) == {home_id(second), second.node_id}


def test_node_affinity_is_kept_and_a_dead_node_fails_what_is_bound_to_it(
    second: RunningNode,
) -> None:
    def on(node_id: str, soft: bool) -> nbray.RemoteFunction:
        return where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft))

    home = home_id(second)
    for node_id in (second.node_id, home):
        places = nbray.get([on(node_id, False).remote() for _ in range(8)], timeout=30)
        assert set(places) == {node_id}

    @nbray.remote
    class Bound:
        def where(self) -> str:
            return nbray.get_runtime_context().get_node_id()

    bound = Bound.options(scheduling_strategy=NodeAffinitySchedulingStrategy(second.node_id, False))
    actor = bound.remote()
    assert nbray.get(actor.where.remote(), timeout=30) == second.node_id
    second.stop()
    wait_until(lambda: sum(n["Alive"] for n in nbray.nodes()) == 1, "the node to be dead")
    with pytest.raises(nbray.exceptions.TaskUnschedulableError, match="soft=False was specified"):
        nbray.get(on(second.node_id, False).remote(), timeout=30)
    assert nbray.get(on(second.node_id, True).remote(), timeout=30) == home
    late = bound.remote()
    with pytest.raises(nbray.exceptions.ActorUnschedulableError):
        nbray.get(late.where.remote(), timeout=30)
    unknown = NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
    with pytest.raises(nbray.exceptions.TaskUnschedulableError):
        nbray.get(where.options(scheduling_strategy=unknown).remote(), timeout=30)


def test_labels_choose_the_node(second: RunningNode) -> None:
    home = home_id(second)

    def place(**options: object) -> str:
        return str(nbray.get(where.options(**options).remote(), timeout=30))

    assert place(label_selector={"zone": "in(near,far)"}) == second.node_id
    assert place(label_selector={"zone": "!far"}) == home
    assert place(label_selector={"ray.io/node-id": home}) == home
    fallback = [{"label_selector": {"zone": "mars"}}, {"label_selector": {"zone": "far"}}]
    assert place(label_selector={"zone": "pluto"}, fallback_strategy=fallback) == second.node_id
    far = NodeLabelSchedulingStrategy({"zone": In("far"), "disk": Exists()})
    assert place(scheduling_strategy=far) == second.node_id
    liked = NodeLabelSchedulingStrategy({}, soft={"zone": In("mars")})
    assert place(scheduling_strategy=liked) in (home, second.node_id)

    @nbray.remote(label_selector={"zone": "far"})
    class There:
        def where(self) -> str:
            return nbray.get_runtime_context().get_node_id()

    assert nbray.get(There.remote().where.remote(), timeout=30) == second.node_id
    row = next(n for n in nbray.nodes() if n["NodeID"] == second.node_id)
    assert row["Labels"]["zone"] == "far"


def test_a_task_goes_where_its_large_arguments_lie(second: RunningNode) -> None:
    @nbray.remote
    def where_is(array: np.ndarray) -> str:
        return nbray.get_runtime_context().get_node_id()

    far = ones.options(resources={"far": 1})

    def goes_to(make: Callable[[], nbray.ObjectRef], node_id: str) -> bool:
        array = make()
        nbray.wait([array], timeout=30)
        wait_until(lambda: nbray.available_resources().get("CPU") == 3, "all CPUs to be free")
        return bool(nbray.get(where_is.remote(array), timeout=30) == node_id)

    # The raylet here hears of the other's idle CPUs a moment later than the GCS.
    wait_until(
        lambda: goes_to(lambda: far.remote(1_000_000), second.node_id),
        "a task to go where its argument is",
    )
    assert goes_to(lambda: nbray.put(np.ones(1_000_000)), home_id(second))


def test_an_actor_that_waits_at_a_busy_node_starts_at_one_that_joins(session_root: Path) -> None:
    facts = nbray.init(num_cpus=1, object_store_memory=50 * MB)

    @nbray.remote(num_cpus=1)
    class Holder:
        def where(self) -> str:
            return nbray.get_runtime_context().get_node_id()

    first = Holder.remote()
    assert nbray.get(first.where.remote(), timeout=30) == facts["node_id"]
    waits = Holder.remote()
    call = waits.where.remote()
    assert nbray.wait([call], timeout=1.5) == ([], [call])
    late = join_here(store=50 * MB)
    try:
        assert nbray.get(call, timeout=30) == late.node_id
    finally:
        late.stop()


def test_an_actor_that_waits_at_a_node_that_dies_starts_at_one_that_joins(cluster: Path) -> None:
    @nbray.remote(num_cpus=0, resources={"gate": 1})
    class Holder:
        def where(self) -> str:
            return nbray.get_runtime_context().get_node_id()

    for _ in range(3):  # the GCS heard of the death and lost the call to it in either order
        dies = join_here(store=50 * MB, resources={"gate": 1})
        holder = Holder.remote()
        assert nbray.get(holder.where.remote(), timeout=30) == dies.node_id
        waits = Holder.remote()
        call = waits.where.remote()
        assert nbray.wait([call], timeout=0.5) == ([], [call])
        kill_node(psutil.Process(dies.children[0].pid))
        late = join_here(store=50 * MB, resources={"gate": 1})
        try:
            assert nbray.get(call, timeout=30) == late.node_id
        finally:
            late.stop()
            dies.stop()


def test_objects_are_pulled_and_all_copies_are_freed(second: RunningNode) -> None:
    count = 5_000_000  # 40 MB, ten chunks
    made_far = ones.options(resources={"far": 1}).remote(count)
    assert nbray.get(made_far, timeout=30).sum() == count
    put_here = nbray.put(np.arange(count))
    expected = float(np.arange(count).sum())
    assert nbray.get(total.options(resources={"far": 1}).remote(put_here), timeout=30) == expected
    wait_until(lambda: far_objects(second) == 2, "the original and a copy on the far node")
    wait_until(lambda: home_objects(second) == 2, "the same at home")
    del made_far, put_here
    wait_until(lambda: far_objects(second) == 0, "the far node's memory to be free")
    wait_until(lambda: home_objects(second) == 0, "the memory at home to be free")


def test_copies_make_room_for_new_objects(second: RunningNode) -> None:
    far = ones.options(resources={"far": 1})
    refs = [far.remote(8_000_000) for _ in range(2)]  # 64 MB each, into stores of 200 MB
    kept = [nbray.put(np.zeros(8_000_000))]
    for ref in refs:
        assert nbray.get(ref, timeout=30)[-1] == 1
    kept.append(nbray.put(np.zeros(8_000_000)))
    assert nbray.get(refs[0], timeout=30)[0] == 1
    assert [nbray.get(ref)[0] for ref in kept] == [0, 0]


def test_an_object_of_a_dead_node_is_lost_and_the_rest_goes_on(second: RunningNode) -> None:
    far = ones.options(resources={"far": 1})
    lost, waits = far.options(max_retries=0).remote(1_000_000), far.remote(1_000_000)
    nbray.wait([lost, waits], num_returns=2, timeout=30)
    raylet = psutil.Process(second.children[-1].pid)
    raylet.send_signal(signal.SIGKILL)
    with pytest.raises(nbray.exceptions.ObjectLostError):
        nbray.get(lost, timeout=30)
    with pytest.raises(nbray.exceptions.GetTimeoutError, match="made again"):
        nbray.get(waits, timeout=2)  # no node is left that could
    assert nbray.get(where.remote(), timeout=30) != second.node_id


def test_a_far_actor_that_dies_gives_its_resource_back(second: RunningNode) -> None:
    @nbray.remote(resources={"far": 1})
    class Far:
        def pid(self) -> int:
            return os.getpid()

    actor = Far.remote()
    pid = nbray.get(actor.pid.remote(), timeout=30)
    wait_until(lambda: nbray.available_resources().get("far") == 3, "the resource to be taken")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(actor.pid.remote(), timeout=30)
    wait_until(lambda: nbray.available_resources().get("far") == 4, "the resource to come back")


def test_a_killed_driver_leaves_nothing_on_the_far_node(second: RunningNode) -> None:
    program = (
        "import nbray, numpy, time; nbray.init('auto')\n"
        "far = nbray.remote(numpy.ones).options(resources={'far': 1})\n"
        "ref = far.remote(1_000_000); nbray.wait([ref])\n"
        "long = nbray.remote(time.sleep).options(resources={'far': 1}).remote(600)\n"
        "print('up', flush=True); nbray.get(long)"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"up\n"
    wait_until(lambda: far_objects(second) == 1, "the object on the far node")
    wait_until(lambda: nbray.available_resources().get("far") == 3, "the task to run there")
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: far_objects(second) == 0, "the object to be freed")
    wait_until(lambda: nbray.available_resources().get("far") == 4, "its resources to come back")


def test_2000_tasks_while_a_node_is_killed(second: RunningNode) -> None:
    @nbray.remote(max_retries=-1)
    def step(i: int) -> tuple[int, str]:
        time.sleep(0.002)
        return i, nbray.get_runtime_context().get_node_id()

    refs = [step.remote(i) for i in range(2000)]
    done = set()
    waiting = refs
    while second.node_id not in done:  # the far node has to be in the middle of it
        ready, waiting = nbray.wait(waiting, timeout=30)
        done.update(node for _, node in nbray.get(ready, timeout=30))
    assert waiting
    os.kill(second.children[0].pid, signal.SIGKILL)
    results = nbray.get(refs, timeout=60)
    assert [i for i, _ in results] == list(range(2000))
