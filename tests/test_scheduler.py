"""Where work runs: the decisions of the scheduler, and two real nodes that follow them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import wait_until

import nbray
from nbray.common.infeasible import infeasible_text
from nbray.common.resources import to_units
from nbray.driver import find_session
from nbray.launcher.local import RunningNode, join
from nbray.raylet.scheduler import LeaseRequest, Scheduler
from nbray.wire.messages import NodeInfo

MB = 1 << 20


def node(name: str, total: dict[str, float], available: dict[str, float]) -> NodeInfo:
    return NodeInfo(
        name.encode(), name, 1, 2, name, False, True, to_units(total), to_units(available)
    )


def waiting(here: dict[str, float], *demands: dict[str, float]) -> Scheduler:
    """A scheduler that has granted what fits of the ``demands`` and holds the rest."""
    scheduler = Scheduler(to_units(here))
    for number, demand in enumerate(demands):
        scheduler.submit(LeaseRequest(number, to_units(demand), movable=True))
    scheduler.grant(100)
    return scheduler


def targets(scheduler: Scheduler, *nodes: NodeInfo) -> list[tuple[object, str]]:
    return [(request.key, node.host) for request, node in scheduler.spill(nodes)]


def test_what_has_to_wait_goes_where_it_fits_now_and_where_most_is_left() -> None:
    scheduler = waiting({"CPU": 1}, {"CPU": 1}, {"CPU": 1})
    full = node("full", {"CPU": 64}, {"CPU": 0})
    busy = node("busy", {"CPU": 4}, {"CPU": 1})
    idle = node("idle", {"CPU": 4}, {"CPU": 4})
    assert targets(scheduler, full, busy, idle) == [(1, "idle")]
    assert scheduler.waiting == 0


def test_a_burst_does_not_go_to_one_node() -> None:
    scheduler = waiting({"CPU": 1}, *[{"CPU": 1}] * 6)
    nodes = [node(name, {"CPU": 2}, {"CPU": 2}) for name in "ab"]
    spilled = targets(scheduler, *nodes)
    assert sorted(host for _, host in spilled) == ["a", "a", "b", "b"]
    assert scheduler.waiting == 1


def test_what_never_fits_here_goes_where_it_could_and_else_waits() -> None:
    scheduler = waiting({"CPU": 1}, {"GPU": 1}, {"CPU": 1}, {"CPU": 1}, {"TPU": 1})
    assert targets(scheduler, node("gpu", {"GPU": 1}, {"GPU": 0})) == [(0, "gpu")]
    assert scheduler.waiting == 2


def test_what_may_not_move_waits() -> None:
    scheduler = Scheduler({})
    scheduler.submit(LeaseRequest("actor", to_units({"CPU": 1})))
    assert targets(scheduler, node("idle", {"CPU": 4}, {"CPU": 4})) == []
    assert scheduler.waiting == 1


def test_an_infeasible_request_names_the_nearest_node_and_what_it_lacks() -> None:
    nodes = [node("none", {}, {}), node("near", {"CPU": 2, "GPU": 1}, {})]
    text = infeasible_text(to_units({"CPU": 8, "GPU": 1}), nodes)
    assert "on near" in text
    assert "lacks {'CPU': 6.0}" in text


# --- two nodes --------------------


@pytest.fixture
def second(session_root: Path) -> Iterator[RunningNode]:
    """A head node with one CPU, and this second node with two and the resource "far"."""
    facts = nbray.init(num_cpus=1, object_store_memory=200 * MB)
    head, info = find_session(facts["address"])
    joined = join(
        info["gcs_address"], resources={"CPU": 2, "far": 4}, token=head.token,
        object_store_memory=200 * MB, fate_shared=True,
    )  # fmt: skip
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


def test_tasks_go_where_their_resource_is_and_where_room_is(second: RunningNode) -> None:
    far = where.options(resources={"far": 1})
    assert nbray.get(far.remote(), timeout=30) == second.node_id
    wait_until(lambda: nbray.available_resources().get("CPU") == 3, "all CPUs to be free")
    places = nbray.get([where.remote(0.5) for _ in range(3)], timeout=30)
    assert second.node_id in places
    assert len(set(places)) == 2
    wait_until(lambda: nbray.available_resources().get("CPU") == 3, "all CPUs to be given back")


def test_a_request_that_no_node_can_serve_is_served_when_a_node_joins(
    session_root: Path,
) -> None:
    facts = nbray.init(num_cpus=1, object_store_memory=50 * MB)
    head, info = find_session(facts["address"])
    pending = where.options(resources={"late": 1}).remote()
    log = head.log_path("raylet.log")
    wait_until(lambda: "can ever serve {'CPU': 1.0, 'late': 1.0}" in log.read_text(), "a warning")
    late = join(
        info["gcs_address"], resources={"CPU": 1, "late": 1}, token=head.token,
        object_store_memory=50 * MB, fate_shared=True,
    )  # fmt: skip
    try:
        assert nbray.get(pending, timeout=20) == late.node_id
    finally:
        late.stop()


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
    ref = ones.options(resources={"far": 1}).remote(1_000_000)
    nbray.wait([ref], timeout=30)
    raylet = psutil.Process(second.children[-1].pid)
    raylet.send_signal(signal.SIGKILL)
    with pytest.raises(nbray.exceptions.ObjectLostError):
        nbray.get(ref, timeout=30)
    assert nbray.get(where.remote(), timeout=30) != second.node_id


def test_a_far_actor_that_dies_gives_its_resource_back(second: RunningNode) -> None:
    @nbray.remote(resources={"far": 1})
    class Far:
        def pid(self) -> int:
            return os.getpid()

    actor = Far.remote()
    pid = nbray.get(actor.pid.remote(), timeout=30)
    wait_until(lambda: nbray.available_resources()["far"] == 3, "the resource to be taken")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(actor.pid.remote(), timeout=30)
    wait_until(lambda: nbray.available_resources()["far"] == 4, "the resource to come back")


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
    wait_until(lambda: nbray.available_resources()["far"] == 3, "the task to run there")
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: far_objects(second) == 0, "the object to be freed")
    wait_until(lambda: nbray.available_resources()["far"] == 4, "its resources to come back")


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
