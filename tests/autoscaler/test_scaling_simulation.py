"""Planner and instances together, over hours, with providers that are slow, fail and lie.

Nothing is real but the decisions: time is a number, a provider is what a seed says. After each look
the bounds hold; and when the provider comes to its senses and the demand stays the same, there are
as many nodes as the demand needs, and no others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from nbray.autoscaler import demand
from nbray.autoscaler.instances import Instances, Life, Limits, State
from nbray.autoscaler.planner import Rules, TypeRules, plan
from nbray.autoscaler.providers.base import INSTANCE_LABEL, TYPE_LABEL, Instance, Stage
from nbray.wire.records import NodeInfo
from nbray.wire.scaling_messages import Snapshot
from nbray.wire.state_messages import DemandRow

CPU = 10_000
TYPES = {
    "small": TypeRules("small", {"CPU": 2 * CPU}, {TYPE_LABEL: "small"}, 1, 6, 30.0),
    "large": TypeRules("large", {"CPU": 8 * CPU}, {TYPE_LABEL: "large"}, 0, 2, 30.0),
}


@dataclass
class Machine:
    type: str
    ready: float
    ends: float = float("inf")
    joined: bool = False
    ended: bool = False
    idle_since: float = 0.0
    draining: str = ""


@dataclass
class World:
    """A cluster and its provider; ``sane``: from then on the provider does what it says."""

    seed: int
    rng: random.Random = field(init=False)
    now: float = 1_000.0
    sane: bool = False
    machines: dict[str, Machine] = field(default_factory=dict)
    stored: dict[str, Life] = field(default_factory=dict)
    tasks: int = 0
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.instances = Instances((), LIMITS)

    def maybe(self, chance: float) -> bool:
        return not self.sane and self.rng.random() < chance

    # --- the provider --------------------

    def create(self, lives: list[Life]) -> None:
        asked = self.now
        for life in lives:
            if self.maybe(0.1):
                self.instances.refused(life.id, "quota", self.now)
            elif self.maybe(0.1):
                continue  # the call failed, and nobody knows
            else:
                if life.id not in self.machines:
                    ready = self.now + self.rng.choice([1, 5, 20, 200 if not self.sane else 20])
                    self.machines[life.id] = Machine(life.type, ready)
                if not self.maybe(0.1):  # else the answer is lost
                    self.instances.asked(life.id, asked, self.now)

    def listed(self) -> list[Instance] | None:
        if self.maybe(0.1):
            return None
        rows = []
        for name, machine in self.machines.items():
            if self.maybe(0.03):
                continue  # it lies
            stage = Stage.RUNNING if machine.joined else Stage.STARTING
            if self.now < machine.ready - 10:
                stage = Stage.WAITING
            rows.append(
                Instance(id=name, type=machine.type, stage=Stage.ENDED if machine.ended else stage)
            )
        return rows

    def terminate(self, names: list[str]) -> None:
        for name in names:
            if not self.maybe(0.2):
                self.machines.pop(name, None)

    # --- the cluster --------------------

    def live(self) -> None:
        for machine in self.machines.values():
            if not machine.joined and not machine.ended and self.now >= machine.ready:
                machine.joined, machine.idle_since = not self.maybe(0.1), self.now
                machine.ended = not machine.joined
            if machine.joined and (machine.draining or self.maybe(0.005)):
                machine.joined, machine.ended = False, True  # it leaves, or crashes

    def snapshot(self) -> Snapshot:
        left, nodes = self.tasks, []
        for name, machine in self.machines.items():
            if not machine.joined:
                continue
            cpus = TYPES[machine.type].resources["CPU"] // CPU
            runs = 0 if machine.draining else min(left, cpus)
            left -= runs
            if runs:
                machine.idle_since = self.now
            nodes.append(
                NodeInfo(
                    name.encode(), "h", 0, 0, "h", False, True, {"CPU": cpus * CPU},
                    {"CPU": (cpus - runs) * CPU}, draining=machine.draining,
                    labels={INSTANCE_LABEL: name, TYPE_LABEL: machine.type},
                    kept_by=["tasks"] if runs else [], idle_s=self.now - machine.idle_since,
                )
            )  # fmt: skip
        rows = [DemandRow({"CPU": CPU}, left, 1.0, False, b"n")] if left else []
        return Snapshot(nodes, rows, [], None, 1e9)

    # --- the autoscaler --------------------

    def look(self) -> None:
        if self.maybe(0.05):  # it is killed and comes back
            self.instances = Instances(list(self.stored.values()), LIMITS)
        snapshot = self.snapshot()
        joined = demand.joined(snapshot.nodes)
        for name in joined.keys() - {life.id for life in self.instances.all()}:
            self.instances.add(Life(name, self.machines[name].type, "here"), self.now)
        found = self.instances.look(self.listed(), self.now, joined, self.now)
        self.store()
        self.terminate(found.terminate)
        bounds = Rules(
            {
                name: TypeRules(**{**vars(rule), "not_before": self.late(name)})
                for name, rule in TYPES.items()
            },
            7,
        )
        here = demand.here(snapshot, self.instances, bounds, {}, self.now)
        made = plan(bounds, here, demand.wanted(snapshot), self.now)
        for launch in made.launch:
            for _ in range(launch.count):
                name = f"i{self.rng.getrandbits(48):x}"
                self.instances.add(Life(name, launch.type, launch.why), self.now)
                self.story.append(f"{self.now:.0f} launch {name} {launch.type}: {launch.why}")
        for drain in made.drain:
            machine = self.machines.get(drain.id)
            self.story.append(f"{self.now:.0f} drain {drain.id}: {drain.why}")
            if self.instances.give_up(drain.id, drain.why, self.now):
                continue
            if machine is not None and machine.joined and not self.maybe(0.2):
                machine.draining = drain.why
                self.instances.drains(drain.id, drain.why, 0.0, self.now)
        self.store()
        if not self.maybe(0.1):  # else it is killed here
            self.create(self.instances.queued())
        self.store()
        self.check()

    def late(self, name: str) -> float:
        return self.instances.not_before.get(name, 0.0)

    def store(self) -> None:
        self.stored = {life.id: life for life in self.instances.all()}

    def check(self) -> None:
        """At every moment: no more of a type than may be, also of those that leave."""
        lives = self.instances.all()
        for name, rule in TYPES.items():
            assert sum(life.type == name for life in lives) <= rule.most, self.told()
        assert len(lives) <= 7, self.told()

    def told(self) -> str:
        return f"seed {self.seed}\n" + "\n".join(self.story[-40:])


LIMITS = Limits(start_s=120.0, drained_s=10.0, stable_s=5.0)


def run(seed: int) -> None:
    world = World(seed)
    for _ in range(200):
        if world.rng.random() < 0.1:
            world.tasks = world.rng.choice([0, 0, 1, 3, 9, 20, 100])
        world.now += 1.0
        world.live()
        world.look()
    world.sane, world.tasks = True, world.rng.choice([0, 5, 100])
    for _ in range(900):
        world.now += 1.0
        world.live()
        world.look()
    lives = world.instances.all()
    assert all(life.state is State.RUNNING for life in lives), world.told()
    assert set(world.machines) == {life.id for life in lives}, "nothing is left over"
    cpus = sum(TYPES[life.type].resources["CPU"] // CPU for life in lives)
    most = 2 * 8 + 5 * 2  # two large ones, and small ones up to seven nodes
    assert cpus >= min(world.tasks, most) or len(lives) == 7, world.told()
    spare = [m for m in world.machines.values() if world.now - m.idle_since > 60]
    assert len(spare) <= TYPES["small"].least, "idle ones have left: " + world.told()


@pytest.mark.parametrize("seed", range(20))
def test_any_provider_ends_in_the_nodes_that_the_demand_needs(seed: int) -> None:
    run(seed)


@pytest.mark.slow
def test_fifty_more_providers() -> None:
    for seed in range(100, 150):
        run(seed)
