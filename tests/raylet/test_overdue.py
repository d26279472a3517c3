"""Requests that were passed for too long: what becomes free is kept for them, and for groups."""

from __future__ import annotations

import random

from nbray.common.resources import UNIT
from nbray.raylet.workers.node_resources import NodeResources
from nbray.raylet.workers.pending import PendingRequest
from nbray.raylet.workers.scheduler import Scheduler
from nbray.scheduling.policy import Demand
from nbray.wire.records import NodeInfo
from nbray.wire.strategies import ANYWHERE

GROUP = b"g" * 18


def node_of(cpus: int) -> tuple[NodeResources, Scheduler]:
    total = {"CPU": cpus * UNIT, "GPU": UNIT}
    row = NodeInfo(b"n" * 28, "", 0, 0, "", True, True, total, {})
    resources = NodeResources(row)
    return resources, Scheduler(resources, random.Random(0))


def request(name: str, **amounts: int) -> PendingRequest:
    return PendingRequest(name, Demand({key: n * UNIT for key, n in amounts.items()}, ANYWHERE))


def granted(scheduler: Scheduler) -> list[object]:
    return [request.asker for request, _ in scheduler.grant()]


def test_a_request_is_passed_until_it_is_overdue() -> None:
    _, scheduler = node_of(2)
    scheduler.enqueue(request("first", CPU=1))
    ((_, first),) = scheduler.grant()
    wide = request("wide", CPU=2)
    scheduler.enqueue(wide)
    scheduler.enqueue(request("small", CPU=1))
    ((small, taken),) = scheduler.grant()
    assert small.asker == "small"
    taken.free()
    wide.overdue = True
    scheduler.enqueue(request("late", CPU=1))
    scheduler.enqueue(request("other", GPU=1))
    scheduler.enqueue(request("nothing"))
    assert granted(scheduler) == ["other", "nothing"]  # what they take is not kept for anybody
    assert scheduler.lacking() == {"CPU": UNIT}
    first.free()
    assert granted(scheduler) == ["wide"]
    assert scheduler.lacking() == {}


def test_room_is_kept_for_a_group_until_it_is_reserved_or_the_time_is_over() -> None:
    resources, scheduler = node_of(2)
    scheduler.enqueue(request("first", CPU=1))
    ((_, first),) = scheduler.grant()
    bundles = {0: {"CPU": UNIT}, 1: {"CPU": UNIT}}
    resources.keep_room(GROUP, bundles, until=10.0)
    assert not resources.reserve(GROUP, bundles)
    assert not resources.reserve(b"other", {0: {"CPU": UNIT}})
    scheduler.enqueue(request("small", CPU=1))
    assert granted(scheduler) == [] and scheduler.lacking() == {"CPU": UNIT}
    first.free()
    assert resources.reserve(GROUP, bundles)
    assert scheduler.lacking() == {}
    resources.release([(GROUP, 0), (GROUP, 1)])  # another node refused it: the room is still kept
    assert granted(scheduler) == []
    assert not resources.forget_room(9.9)
    assert resources.forget_room(10.0)
    assert granted(scheduler) == ["small"]
