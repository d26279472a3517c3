"""Placement groups: made, used, removed, and what is left of them when processes are killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.processes import kill_gcs
from support.stopping import stand_still
from support.terminal import Terminal

import nbray
from nbray.cluster_utils import Cluster
from nbray.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    NbraySystemError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)
from nbray.jupyter_ext.pictures.formatters import Formatters
from nbray.testing import wait_until
from nbray.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group_table,
    remove_placement_group,
    state,
)
from nbray.util.placement_group import PlacementGroup, placement_group
from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup
from nbray.util.state import list_placement_groups

NODE = "ray.io/node-id"


def all_is_free(timeout: float = 40.0) -> None:
    """Wait until everything was given back."""
    wait_until(
        lambda: nbray.available_resources() == nbray.cluster_resources(),
        "all resources given back",
        timeout,
    )


def table(group: PlacementGroup) -> dict[str, Any]:
    return placement_group_table(group)


@nbray.remote
def where() -> str:
    return str(nbray.get_runtime_context().get_node_id())


@nbray.remote(num_cpus=1)
class Holder:
    def where(self) -> str:
        return str(nbray.get_runtime_context().get_node_id())

    def group(self) -> PlacementGroup | None:
        return get_current_placement_group()


@pytest.fixture
def nodes(session_root: Path) -> Iterator[Cluster]:
    """A head without CPUs, and two nodes with two."""
    del session_root
    found = Cluster(True, True, {"num_cpus": 0})
    for _ in range(2):
        found.add_node(num_cpus=2)
    found.wait_for_nodes()
    yield found
    found.shutdown()


def test_what_is_no_placement_group_is_refused(cluster: Path) -> None:
    @nbray.remote
    def one() -> int:
        return 1

    with pytest.raises(TypeError, match="must be a PlacementGroup, but received type <class 'int'"):
        one.options(placement_group=3).remote()
    assert nbray.get(one.options(placement_group="default").remote(), timeout=30) == 1


def test_a_group_takes_its_resources_and_gives_them_back(cluster: Path) -> None:
    del cluster
    group = placement_group([{"CPU": 1}, {"custom": 0.5}])
    assert nbray.get(group.ready(), timeout=40) == group
    assert nbray.wait([group.ready()], timeout=40)[0] and group.wait(40)
    assert group.bundle_count == 2 and group.bundle_specs == [{"CPU": 1}, {"custom": 0.5}]
    assert str(group.bundle_specs) == "[{'CPU': 1.0}, {'custom': 0.5}]", "as the table has them"
    wait_until(lambda: nbray.available_resources().get("CPU") == 1, "the CPU is taken")
    row = table(group)
    assert row["state"] == "CREATED" and row["strategy"] == "PACK"
    assert set(row["bundles_to_node_id"].values()) == {nbray.nodes()[0]["NodeID"]}
    remove_placement_group(group)
    remove_placement_group(group)
    assert table(group)["state"] == "REMOVED"
    all_is_free()


def test_tasks_and_actors_run_in_their_bundle_and_so_do_captured_children(cluster: Path) -> None:
    del cluster
    group = placement_group([{"CPU": 1}, {"CPU": 1}])

    @nbray.remote
    def current() -> PlacementGroup | None:
        return get_current_placement_group()

    @nbray.remote
    def child(**options: Any) -> PlacementGroup | None:
        found: PlacementGroup | None = nbray.get(current.options(num_cpus=0, **options).remote())
        return found

    def run(capture: bool, **options: Any) -> PlacementGroup | None:
        strategy = InGroup(group, 0, placement_group_capture_child_tasks=capture)
        task = child.options(scheduling_strategy=strategy)
        found: PlacementGroup | None = nbray.get(task.remote(**options), timeout=40)
        return found

    assert nbray.get(current.options(placement_group=group).remote(), timeout=40) == group
    assert run(True) == group
    assert run(False) is None
    assert run(True, scheduling_strategy="DEFAULT") is None
    actor = Holder.options(scheduling_strategy=InGroup(group, 1)).remote()
    assert nbray.get(actor.group.remote(), timeout=40) == group
    assert nbray.get(current.options(num_cpus=0).remote(), timeout=40) is None
    assert (
        nbray.get(child.options(placement_group=PlacementGroup.empty(), num_cpus=0).remote())
        is None
    )
    remove_placement_group(group)
    all_is_free()


def test_a_bundle_is_shared_by_no_more_than_it_holds(cluster: Path) -> None:
    group = placement_group([{"CPU": 1}])

    @nbray.remote
    def alone(path: str) -> bool:
        try:
            os.mkdir(path)
        except FileExistsError:
            return False
        time.sleep(0.05)
        os.rmdir(path)
        return True

    task = alone.options(scheduling_strategy=InGroup(group))
    assert all(nbray.get([task.remote(str(cluster / "one")) for _ in range(8)], timeout=60))
    remove_placement_group(group)
    all_is_free()


def test_wrong_arguments_are_refused_with_rays_words(cluster: Path) -> None:
    del cluster
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"bundles": []}, "Bundles must be a non-empty list"),
        ({"bundles": {}}, "Placement group bundles must be a list"),
        ({"bundles": [{}]}, "Bundles cannot be an empty dictionary"),
        ({"bundles": [{"CPU": 0}]}, "Bundles cannot be an empty dictionary"),
        ({"bundles": [{"CPU": 1}], "strategy": "X"}, "Invalid placement group strategy X"),
        ({"bundles": [{"CPU": 1}], "topology_strategy": {NODE: "X"}}, "Invalid topology strategy"),
        ({"bundles": [{"CPU": 1}], "topology_strategy": 3}, "must be a dict, got int"),
        ({"bundles": [{"CPU": 1}], "strategy": "PACK", "topology_strategy": {}}, "cannot both be"),
        ({"bundles": [{"CPU": 1}], "lifetime": "x"}, "Placement group `lifetime` argument"),
        ({"bundles": [{"CPU": 1}], "bundle_label_selector": [{}, {}]}, "Invalid bundle label"),
    ]
    for arguments, text in wrong:
        with pytest.raises(ValueError, match=text):
            placement_group(**arguments)
    with pytest.raises(NotImplementedError, match="not by the label 'rack'"):
        placement_group([{"CPU": 1}], topology_strategy={"rack": "PACK"})
    strict = placement_group([{"CPU": 1}], topology_strategy={NODE: "STRICT_SPREAD"})
    assert placement_group_table(strict)["strategy"] == "STRICT_SPREAD"
    remove_placement_group(strict)
    group = placement_group([{"CPU": 1}], strategy=None)
    assert placement_group_table(group)["strategy"] == "PACK"
    with pytest.raises(ValueError, match="placement group bundle index 1 is invalid"):
        where.options(scheduling_strategy=InGroup(group, 1)).remote()
    with pytest.raises(ValueError, match="placement group bundle index -2 is invalid"):
        Holder.options(scheduling_strategy=InGroup(group, -2)).remote()
    with pytest.raises(ValueError, match="Cannot schedule"):
        where.options(num_cpus=2, scheduling_strategy=InGroup(group)).remote()
    with pytest.raises(ValueError, match="bundle index must be -1"):
        where.options(placement_group_bundle_index=1).remote()
    with pytest.raises(ValueError, match="Failed to look up placement group with name"):
        get_placement_group("nobody")
    with pytest.raises(NbraySystemError, match="system reserved"):
        placement_group([{"bundle": 1}])
    remove_placement_group(group)
    for _ in range(20):  # a name is free as soon as its group was to be removed
        remove_placement_group(placement_group([{"CPU": 1}], name="again"))
    all_is_free()


def test_removal_ends_what_runs_and_what_waits(cluster: Path) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])

    @nbray.remote
    def endless(path: str) -> None:
        Path(path).touch()
        time.sleep(1000)

    first = endless.options(max_retries=0, scheduling_strategy=InGroup(group, 0))
    running = first.remote(str(cluster / "began"))
    actor = Holder.options(scheduling_strategy=InGroup(group, 1)).remote()
    nbray.get(actor.where.remote(), timeout=40)
    waiting = where.options(scheduling_strategy=InGroup(group)).remote()
    pending = Holder.options(scheduling_strategy=InGroup(group, 1)).remote().where.remote()
    wait_until((cluster / "began").exists, "the task runs", 40)
    remove_placement_group(group)
    for ref, error in (
        (running, WorkerCrashedError),
        (waiting, TaskPlacementGroupRemoved),
        (pending, ActorPlacementGroupRemoved),
    ):
        with pytest.raises(error):
            nbray.get(ref, timeout=40)
    assert table(group)["state"] == "REMOVED"
    with pytest.raises(ActorDiedError):
        while True:
            nbray.get(actor.where.remote(), timeout=40)
    late = where.options(scheduling_strategy=InGroup(group)).remote()
    with pytest.raises(TaskPlacementGroupRemoved):
        nbray.get(late, timeout=40)
    (cluster / "began").unlink()
    all_is_free()


def test_a_group_that_does_not_fit_waits_and_says_why(cluster: Path, terminal: Terminal) -> None:
    del cluster
    first = placement_group([{"CPU": 2}])
    assert first.wait(40)
    second = placement_group([{"CPU": 1}])
    never = placement_group([{"CPU": 100}])
    assert not second.wait(0.2)
    wait_until(
        lambda: all(table(group)["stats"]["scheduling_attempt"] for group in (second, never)),
        "a look for a place",
    )
    rows = {row.placement_group_id: row for row in list_placement_groups(detail=True)}
    assert rows[first.id.hex()].state == "CREATED"
    assert rows[first.id.hex()].bundles is not None
    assert "fits nowhere" in rows[never.id.hex()].reasons[0]
    assert rows[second.id.hex()] == state.get_placement_group(second.id.hex())
    stats = table(first)["stats"]
    assert stats["scheduling_state"] == "FINISHED" and stats["scheduling_attempt"] >= 1
    assert stats["end_to_end_creation_latency_ms"] >= stats["scheduling_latency_ms"] > 0
    assert table(second)["stats"]["scheduling_state"] == "NO_RESOURCES"
    assert table(never)["stats"]["scheduling_state"] == "INFEASIBLE"
    stats = rows[never.id.hex()].stats
    assert stats is not None and stats["scheduling_state"] == "INFEASIBLE"
    title, facts = Formatters(lambda origin: "").placement_group(never)
    assert never.id.hex()[:12] in title and ("bundle 0", "CPU 100, not placed") in facts
    assert "what is free now" in table(second)["reasons"][0]
    remove_placement_group(first)
    with pytest.raises(NbraySystemError, match="removed"):
        first.wait(40)
    assert second.wait(40)
    wait_until(lambda: "fits nowhere" in terminal.err, "a warning", 40)
    ready = never.ready()
    remove_placement_group(never)
    with pytest.raises(TaskPlacementGroupRemoved):
        nbray.get(ready, timeout=40)
    remove_placement_group(second)
    all_is_free()


def test_strategies_choose_the_nodes(nodes: Cluster) -> None:
    del nodes

    def held(strategy: str, *cpus: int) -> list[str]:
        group = placement_group([{"CPU": n} for n in cpus], strategy=strategy)
        assert group.wait(40), strategy
        found = list(table(group)["bundles_to_node_id"].values())
        tasks = [
            where.options(num_cpus=n, scheduling_strategy=InGroup(group, i)).remote()
            for i, n in enumerate(cpus)
        ]
        assert nbray.get(tasks, timeout=60) == found
        actors = [Holder.options(scheduling_strategy=InGroup(group)).remote() for _ in cpus]
        assert sorted(nbray.get([a.where.remote() for a in actors], timeout=60)) == sorted(found)
        remove_placement_group(group)
        all_is_free()
        return found

    assert len(set(held("PACK", 1, 1))) == 1
    assert len(set(held("SPREAD", 1, 1))) == 2
    assert len(set(held("STRICT_PACK", 1, 1))) == 1
    assert len(set(held("STRICT_SPREAD", 1, 1))) == 2
    impossible = placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    assert not impossible.wait(0.3)


def test_bundles_of_a_killed_node_are_placed_anew_and_tasks_run_again(nodes: Cluster) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert group.wait(40)
    before = table(group)["bundles_to_node_id"]
    actor = Holder.options(
        max_restarts=-1, max_task_retries=-1, scheduling_strategy=InGroup(group, 1)
    ).remote()
    assert nbray.get(actor.where.remote(), timeout=40) == before[1]
    victim = next(n for n in nodes.worker_nodes if n.node_id == before[1])
    nodes.remove_node(victim, allow_graceful=False)
    wait_until(lambda: table(group)["state"] == "RESCHEDULING", "its end was noticed", 60)
    ref = where.options(num_cpus=0, scheduling_strategy=InGroup(group, 1)).remote()
    new = nodes.add_node(num_cpus=2)
    assert nbray.get(ref, timeout=60) == new.node_id
    assert nbray.get(actor.where.remote(), timeout=60) == new.node_id
    assert table(group)["bundles_to_node_id"] == {0: before[0], 1: new.node_id}
    nbray.kill(actor)
    remove_placement_group(group)
    all_is_free()


def test_a_gcs_that_is_killed_at_any_moment_loses_no_group_and_no_resource(
    nodes: Cluster, session_root: Path
) -> None:
    del nodes
    generator = random.Random(3)
    for _ in range(4):
        killer = threading.Timer(generator.uniform(0, 0.02), kill_gcs, [session_root])
        killer.start()
        groups = [
            placement_group([{"CPU": 0.1}, {"CPU": 0.1}], strategy="STRICT_SPREAD")
            for _ in range(10)
        ]
        assert all(group.wait(60) for group in groups)
        killer.join()
        ref = where.options(num_cpus=0.1, scheduling_strategy=InGroup(groups[0], 1)).remote()
        assert nbray.get(ref, timeout=60) == table(groups[0])["bundles_to_node_id"][1]
        for group in groups:
            remove_placement_group(group)
    all_is_free()


def test_groups_that_are_removed_before_a_node_has_reported_give_all_back(
    nodes: Cluster, session_root: Path
) -> None:
    groups = [
        placement_group([{"CPU": 0.1}, {"CPU": 0.1}], strategy="STRICT_SPREAD") for _ in range(10)
    ]
    assert all(group.wait(60) for group in groups)
    raylet = psutil.Process(next(iter(nodes.worker_nodes)).children[-1].pid)
    stand_still(raylet.pid)
    try:
        kill_gcs(session_root)
        for group in groups:
            remove_placement_group(group)
        assert all(table(group)["state"] == "REMOVED" for group in groups)
    finally:
        raylet.resume()
    all_is_free()


_DRIVER = """
import nbray, sys, time
from nbray.util import placement_group
nbray.init(address=sys.argv[1], namespace="n")
mortal = placement_group([{"CPU": 1}], name="mortal")
detached = placement_group([{"CPU": 1}], name="detached", lifetime="detached")
assert mortal.wait(40) and detached.wait(40)
print("made", flush=True)
time.sleep(1000)
"""


def test_groups_end_with_their_killed_driver_but_for_the_detached(session_root: Path) -> None:
    del session_root
    found = Cluster(True, head_node_args={"num_cpus": 2})
    found.connect(namespace="n")
    command = [sys.executable, "-c", _DRIVER, found.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "made\n"
        assert get_placement_group("mortal").bundle_specs == [{"CPU": 1}]
        with pytest.raises(NbraySystemError, match="already exists"):
            placement_group([{"CPU": 1}], name="mortal")
        psutil.Process(driver.pid).kill()
    wait_until(lambda: nbray.available_resources().get("CPU") == 1, "one CPU is back", 40)
    with pytest.raises(ValueError, match="mortal"):
        get_placement_group("mortal")
    remove_placement_group(get_placement_group("detached"))
    all_is_free()
    found.shutdown()


def test_a_group_that_an_actor_made_ends_with_it(cluster: Path) -> None:
    del cluster

    @nbray.remote(num_cpus=0)
    class Maker:
        def make(self) -> PlacementGroup:
            group = placement_group([{"CPU": 1}])
            assert group.wait(40)
            return group

    maker = Maker.remote()
    group = nbray.get(maker.make.remote(), timeout=60)
    nbray.kill(maker)
    wait_until(lambda: table(group)["state"] == "REMOVED", "its end", 40)
    all_is_free()


def test_a_gcs_that_comes_back_remembers_what_was_removed(session_root: Path) -> None:
    nbray.init(num_cpus=1)
    removed, kept = placement_group([{"CPU": 1}], name="once"), placement_group([{"CPU": 1}])
    assert removed.wait(30)
    remove_placement_group(removed)
    assert kept.wait(30)
    kill_gcs(session_root)
    assert placement_group_table(removed)["state"] == "REMOVED"
    assert placement_group_table(kept)["state"] == "CREATED"
    again = placement_group([{"CPU": 1}], name="once")  # the name is free
    remove_placement_group(kept)
    assert again.wait(30)


_DETACHED = """
import nbray, sys
nbray.init(address=sys.argv[1], namespace="n")

@nbray.remote(num_cpus=0, max_restarts=1)
class Maker:
    def make(self):
        return nbray.util.placement_group([{"CPU": 1}]).wait(40)

maker = Maker.options(name="maker", lifetime="detached").remote()
assert nbray.get(maker.make.remote(), timeout=40)
"""


def test_groups_of_a_detached_actor_end_when_it_restarts(session_root: Path) -> None:
    del session_root
    found = Cluster(True, head_node_args={"num_cpus": 2})
    found.connect(namespace="n")
    subprocess.run([sys.executable, "-c", _DETACHED, found.address], check=True, timeout=60)
    wait_until(lambda: nbray.available_resources().get("CPU") == 1, "the group is there", 40)
    nbray.kill(nbray.get_actor("maker"), no_restart=False)
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "the group has gone", 40)
    found.shutdown()
