"""What actors need of a node, and in which group they and what they create run."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.cluster_utils import Cluster
from nbray.gcs.actors.placement import ActorPlacement
from nbray.testing import wait_until
from nbray.util.placement_group import placement_group, remove_placement_group
from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from nbray.util.state import list_actors
from nbray.wire.records import ActorOptions


@nbray.remote
class Anywhere:
    def node(self) -> str:
        return nbray.get_runtime_context().get_node_id()

    def takes(self) -> dict[str, float]:
        return nbray.get_runtime_context().get_assigned_resources()


def test_actors_that_name_no_resources_are_spread_over_the_cpus_and_take_none(
    session_root: Path,
) -> None:
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=0)
        nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=2, resources={"big": 2})]
        nbray.init(address=cluster.address)
        actors = [Anywhere.remote() for _ in range(6)]
        found = Counter(nbray.get([actor.node.remote() for actor in actors], timeout=60))
        # By their CPUs; none without.
        assert found == {nodes[0].node_id: 2, nodes[1].node_id: 4}
        assert nbray.get(actors[0].takes.remote(), timeout=30) == {}
        # With any resource named, a CPU is taken, too, as in Ray.
        big = Anywhere.options(resources={"big": 1}).remote()
        assert nbray.get(big.takes.remote(), timeout=30) == {"CPU": 1.0, "big": 1.0}
        none = Anywhere.options(resources={"big": 1}, num_cpus=0).remote()
        assert nbray.get(none.takes.remote(), timeout=30) == {"big": 1.0}
        # While all CPUs are busy, too: it takes none.
        busy = [Anywhere.options(num_cpus=1).remote() for _ in range(2)]
        nbray.get([actor.node.remote() for actor in busy], timeout=60)
        assert nbray.get(Anywhere.remote().node.remote(), timeout=60)
        # Those that have gone make room.
        del actors[:]
        wait_until(
            lambda: len(list_actors(filters=[("state", "=", "DEAD")])) >= 6, "the end of them"
        )
        actors = [Anywhere.remote() for _ in range(3)]
        found = Counter(nbray.get([actor.node.remote() for actor in actors], timeout=60))
        assert found == {nodes[0].node_id: 1, nodes[1].node_id: 2}
    finally:
        nbray.shutdown()
        cluster.shutdown()


@nbray.remote(num_cpus=0)
class InGroup:
    def group(self) -> Any:
        return nbray.util.get_current_placement_group()

    def child(self, **options: Any) -> Any:
        kept = InGroup.options(**options).remote()
        return nbray.get(kept.group.remote(), timeout=60)

    def makes_one(self) -> bool:
        group = nbray.util.placement_group([{"CPU": 0.1}])
        ready = group.wait(60)
        remove_placement_group(group)
        return bool(ready)


def test_groups_are_kept_left_and_made_inside_and_hold_actors_that_fit(cluster: Path) -> None:
    group = placement_group([{"CPU": 1}])
    inside = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    parent = InGroup.options(scheduling_strategy=inside).remote()
    assert nbray.get(parent.group.remote(), timeout=60) == group
    outside = PlacementGroupSchedulingStrategy(None)
    children = [
        parent.child.remote(**options)
        for options in (
            {},
            {"placement_group": "default"},
            {"placement_group": None},
            {"scheduling_strategy": outside},
            {"scheduling_strategy": "DEFAULT"},
            {"placement_group_capture_child_tasks": False},
        )
    ]
    assert nbray.get(children, timeout=60) == [group, group, None, None, None, None]
    assert nbray.get(parent.makes_one.remote(), timeout=60)
    with pytest.raises(ValueError, match="cannot fit into any bundle"):
        nbray.get(parent.child.remote(num_cpus=2), timeout=60)

    @nbray.remote(num_cpus=0)
    def makes_one() -> bool:
        return bool(nbray.util.placement_group([{"CPU": 0.1}]).wait(60))

    assert nbray.get(makes_one.remote(), timeout=60)
    # An actor without a word on resources needs a CPU of its bundle, which it does not take.
    assert nbray.get(Anywhere.options(scheduling_strategy=inside).remote().takes.remote()) == {}
    without = placement_group([{"memory": 1}])
    with pytest.raises(ValueError, match="cannot fit into any bundle"):
        Anywhere.options(scheduling_strategy=PlacementGroupSchedulingStrategy(without)).remote()


def test_of_many_actors_that_wait_for_room_few_ask_at_a_time_and_the_oldest_come_first() -> None:
    async def wait_for_room() -> None:
        placement = ActorPlacement(lambda: [], random.Random(0))
        asking, served = list[int](), [asyncio.Event() for _ in range(200)]

        async def place(number: int) -> None:
            with placement.turn(ActorOptions(resources={"GPU": 1})) as turn:
                await turn.take()
                asking.append(number)
                await served[number].wait()

        async def pause() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(place(number)) for number in range(200)]
        await pause()
        assert asking == list(range(64))
        with placement.turn(ActorOptions(resources={"GPU": 1})) as late:
            assert late.is_far
        with placement.turn(ActorOptions(resources={"GPU": 2})) as other:
            assert not other.is_far
        served[10].set()
        await pause()
        assert asking == list(range(65))
        tasks[20].cancel()
        await pause()
        assert asking == list(range(66))
        for event in served:
            event.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        with placement.turn(ActorOptions(resources={"GPU": 1})) as again:
            assert not again.is_far

    asyncio.run(wait_for_room())
