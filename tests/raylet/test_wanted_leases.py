"""Who is told that others wait for what it has: once, and only if that helps."""

from __future__ import annotations

import random
from typing import Any, cast

from nbray.common.resources import UNIT
from nbray.raylet.workers.lease import LeaseLife
from nbray.raylet.workers.node_resources import NodeResources
from nbray.raylet.workers.pending import PendingRequest, Reclaim
from nbray.raylet.workers.scheduler import Scheduler
from nbray.scheduling.policy import Demand
from nbray.wire.messages import RequestLease
from nbray.wire.records import NodeInfo
from nbray.wire.strategies import ANYWHERE, InGroup, Strategy

JOB: Any = None
FIRST, SECOND, ACTORS = cast(Any, "first"), cast(Any, "second"), cast(Any, "actors")
GROUP = InGroup(b"g" * 18, 0)


class Node:
    """A node whose requests are leases as soon as they are granted."""

    def __init__(self, **amounts: int) -> None:
        total = {name: n * UNIT for name, n in amounts.items()}
        row = NodeInfo(b"n" * 28, "", 0, 0, "", True, True, total, {})
        self.resources = NodeResources(row)
        self.scheduler = Scheduler(self.resources, random.Random(0))
        self.held: dict[int, LeaseLife] = {}
        self.told: list[Any] = []
        self.starting: LeaseLife | None = None

    def ask(
        self, asker: Any, strategy: Strategy = ANYWHERE, env: str = "", starts: bool = False,
        **amounts: int,
    ) -> PendingRequest:  # fmt: skip
        """``starts``: its worker is not there yet, when it is granted; see `has_started`."""
        units = {name: n * UNIT for name, n in amounts.items()}
        message = RequestLease(0, JOB, units, runtime_env=env, strategy=strategy)
        lease = LeaseLife(asker, message)
        request = PendingRequest(asker, Demand(units, strategy), queue=lease.queue)

        def granted(taken: Any) -> None:
            lease.taken = taken
            lease.lease_id = len(self.scheduler.leases) + 1
            if starts:
                self.starting = lease
            else:
                self.hold(lease)

        request.on_granted = granted
        self.carry_out(self.scheduler.submit(request, cast(Any, None), 0.0))
        return request

    def hold(self, lease: LeaseLife) -> None:
        """Its worker is there."""
        self.scheduler.leases[lease.lease_id] = lease
        lease.wanted = self.scheduler.wanted(lease)
        self.carry_out(self.scheduler.help())

    def carry_out(self, decisions: Any) -> None:
        for decision in decisions:
            if isinstance(decision, Reclaim):
                assert decision.lease_ids == []
                self.told.append(decision.holder)
            else:
                decision.request.on_granted(decision.taken)

    def wanted(self) -> list[bool]:
        return [lease.wanted for lease in self.scheduler.leases.values()]

    def give_back(self, lease_id: int) -> None:
        taken = self.scheduler.leases.pop(lease_id).taken
        assert taken is not None
        taken.free()
        self.freed()

    def freed(self) -> None:
        """Something has become free."""
        self.carry_out(self.scheduler.grant())
        self.carry_out(self.scheduler.help())


def test_a_holder_is_told_once_that_others_wait() -> None:
    node = Node(CPU=2)
    for _ in range(3):
        node.ask(FIRST, CPU=1)
    assert node.told == [] and node.wanted() == [False, False]  # it waits for itself alone
    node.ask(SECOND, CPU=1)
    assert node.told == [FIRST] and node.wanted() == [True, True]
    node.ask(SECOND, CPU=1)
    assert node.told == [FIRST]


def test_a_lease_says_with_its_grant_that_others_wait() -> None:
    node = Node(CPU=1)
    node.ask(FIRST, CPU=1)
    node.ask(SECOND, CPU=1)
    node.ask(SECOND, CPU=1)
    assert node.told == [FIRST]
    node.give_back(1)
    assert node.wanted() == [False]  # the second waits for itself
    node.ask(FIRST, CPU=1)
    assert node.told == [FIRST, SECOND]
    node.give_back(1)
    assert node.wanted() == [True]


def test_another_queue_of_the_same_holder_is_another() -> None:
    node = Node(CPU=1)
    node.ask(FIRST, CPU=1)
    node.ask(FIRST, env="other", CPU=1)
    assert node.told == [FIRST]


def test_only_who_has_what_is_lacked_is_told() -> None:
    node = Node(CPU=2, GPU=1)
    node.ask(FIRST, CPU=1)
    node.ask(SECOND, CPU=1, GPU=1)
    node.ask(ACTORS, GPU=1)
    assert node.told == [SECOND]


def test_nobody_is_told_for_what_no_lease_has() -> None:
    node = Node(CPU=2, GPU=1)
    gpu = node.resources.node.take({"GPU": UNIT})  # an actor's
    node.ask(FIRST, CPU=1)
    node.ask(FIRST, CPU=1)
    node.ask(SECOND, CPU=1, GPU=1)
    node.ask(SECOND, CPU=3)
    assert gpu is not None and node.told == []


def test_all_are_told_once_the_last_part_of_what_is_lacked_is_held() -> None:
    """A request that came while a worker was being started, which is nobody's lease yet."""
    node = Node(CPU=2)
    node.ask(FIRST, CPU=1)
    node.ask(SECOND, starts=True, CPU=1)
    node.ask(ACTORS, CPU=2)
    assert node.told == []
    assert node.starting is not None
    node.hold(node.starting)
    assert node.told == [FIRST] and node.wanted() == [True, True]


def test_all_are_told_once_an_actor_has_given_back_what_no_lease_has() -> None:
    node = Node(CPU=2)
    taken = node.resources.node.take({"CPU": UNIT})
    assert taken is not None
    node.ask(FIRST, CPU=1)
    node.ask(SECOND, CPU=2)
    assert node.told == []
    taken.free()
    node.freed()
    node.freed()
    assert node.told == [FIRST] and node.wanted() == [True]


def test_who_is_in_a_placement_group_is_told_of_those_who_wait_for_it() -> None:
    node = Node(CPU=2)
    assert node.resources.reserve(GROUP.group_id, {0: {"CPU": UNIT}})
    node.resources.commit(GROUP.group_id, 0)
    node.ask(FIRST, CPU=1)
    node.ask(SECOND, GROUP, CPU=1)
    node.ask(ACTORS, GROUP, CPU=1)
    assert node.told == [SECOND]
