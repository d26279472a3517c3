"""The machine of placement groups against nodes, a store, and a GCS that is killed."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from nbray.gcs.groups import decisions as d
from nbray.gcs.groups.life import GroupLife, State
from nbray.gcs.groups.machine import Groups, Now
from nbray.scheduling.bundles import place
from nbray.wire.records import Address, BundleInfo, BundleSpec, GroupSpec, JobConfig, NodeInfo
from nbray.wire.strategies import STRATEGIES

JOB = JobConfig(b"job1", "ns", Address(b"w", b"n" * 28, "", "host", 1), [], "/")
Request = d.Reserve | d.Commit | d.Release


@dataclass
class Node:
    """A raylet: what it holds, and what the GCS knows of it."""

    node_id: bytes
    total: int
    held: dict[tuple[bytes, int], BundleInfo] = field(default_factory=dict)

    def row(self) -> NodeInfo:
        taken = sum(bundle.total["CPU"] for bundle in self.held.values())
        return NodeInfo(
            self.node_id, "host", 1, 2, "name", False, True, {"CPU": self.total},
            {"CPU": self.total - taken}, bundles=copy.deepcopy(list(self.held.values())),
        )  # fmt: skip

    def do(self, asked: Request) -> list[bytes]:
        """As a raylet does; returns the groups that it refused."""
        match asked:
            case d.Release(_, keys):
                for key in keys:
                    self.held.pop((key.group_id, key.index), None)
            case d.Commit(_, keys):
                for key in keys:
                    if (key.group_id, key.index) in self.held:
                        self.held[(key.group_id, key.index)].committed = True
            case d.Reserve(_, bundles):
                return self._reserve(bundles)
        return []

    def _reserve(self, bundles) -> list[bytes]:
        refused = []
        for group_id in dict.fromkeys(bundle.key.group_id for bundle in bundles):
            new = [
                b for b in bundles
                if b.key.group_id == group_id and (group_id, b.key.index) not in self.held
            ]  # fmt: skip
            if sum(b.resources["CPU"] for b in new) > self.row().available["CPU"]:
                refused.append(group_id)
                continue
            for b in new:
                info = BundleInfo(group_id, b.key.index, b.resources, b.resources)
                self.held[(group_id, b.key.index)] = info
        for b in bundles:
            if b.commit and b.key.group_id not in refused:
                self.held[(b.key.group_id, b.key.index)].committed = True
        return refused


class GroupsOfACluster(RuleBasedStateMachine):
    """Nodes die, answers and requests are lost, rows are old, and the GCS is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Now(0.0, 1000.0)
        self.nodes = {node.node_id: node for node in (self._node(n, 3) for n in range(3))}
        self.count = len(self.nodes)
        self.log: list[tuple[bytes, bytes]] = []
        self.durable = 0
        self.groups = Groups([])
        self.rows = {node.node_id: node.row() for node in self.nodes.values()}
        self.blocked: list[list[d.Decision]] = []
        self.network: deque[tuple[int, Request]] = deque()
        self.gcs = 0
        self.made: list[bytes] = []

    @staticmethod
    def _node(number: int, cpus: int) -> Node:
        return Node(bytes([number + 1]) * 28, cpus)

    # --- the edge --------------------

    def act(self, decisions: list[d.Decision]) -> None:
        for number, decision in enumerate(decisions):
            match decision:
                case d.Keep(life):
                    self.log.append((life.spec.group_id, msgspec.msgpack.encode(life)))
                case d.Durable():
                    self.blocked.append(decisions[number + 1 :])
                    return
                case d.Commit(node_id, keys):
                    for key in keys:
                        life = self.stored(self.durable).get(key.group_id)
                        removed = self.groups.get(key.group_id)
                        assert (removed is not None and removed.removed) or (
                            life is not None
                            and (life.placed.get(key.index) == node_id or node_id not in self.nodes)
                        ), "what is committed was promised before"
                    self.network.append((self.gcs, decision))
                case d.Reserve(_, bundles):
                    for bundle in bundles:
                        life = self.groups.get(bundle.key.group_id)
                        assert life is not None and life.waits
                    self.network.append((self.gcs, decision))
                case d.Release(node_id, keys):
                    for key in keys:
                        life = self.stored(self.durable).get(key.group_id)
                        assert (
                            life is None or life.removed or life.placed.get(key.index) != node_id
                        ), "what is released was not promised, or that is taken back"
                    self.network.append((self.gcs, decision))
                case d.Decided(group_id):
                    self.check_decided(group_id)

    def check_decided(self, group_id: bytes) -> None:
        life = self.groups.get(group_id)
        assert life is not None and not life.waits
        if life.state is State.CREATED:
            assert len(life.placed) == len(life.spec.bundles)
            for index, node_id in life.placed.items():
                assert self.nodes[node_id].held[(group_id, index)].committed

    def stored(self, upto: int) -> dict[bytes, GroupLife]:
        return {
            key: msgspec.msgpack.decode(value, type=GroupLife)
            for key, value in dict(self.log[:upto]).items()
        }

    def pass_time(self, seconds: float) -> None:
        self.now = Now(self.now.steady + seconds, self.now.wall + seconds)

    # --- what may happen --------------------

    @rule(
        strategy=st.sampled_from(STRATEGIES),
        bundles=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    )
    def register(self, strategy, bundles) -> None:
        group_id = bytes([len(self.made)]) * 18
        self.made.append(group_id)
        spec = GroupSpec(group_id, [BundleSpec({"CPU": n}) for n in bundles], strategy, JOB)
        state, decisions = self.groups.register(spec, False, self.now)
        assert state.state == "PENDING"
        self.act(decisions)

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def remove(self, data) -> None:
        group_id = data.draw(st.sampled_from(self.made))
        self.act(self.groups.remove([group_id], "it was removed", self.now))

    @rule(seconds=st.sampled_from([0.0, 0.3, 2.0]))
    def look(self, seconds) -> None:
        self.pass_time(seconds)
        self.act(self.groups.look(list(self.rows.values()), self.now))

    @precondition(lambda self: self.blocked)
    @rule()
    def the_store_is_durable(self) -> None:
        self.durable = len(self.log)
        blocked, self.blocked = self.blocked, []
        for decisions in blocked:
            self.act(decisions)

    @precondition(lambda self: self.network)
    @rule(heard=st.booleans(), answered=st.booleans())
    def a_request_is_carried(self, heard=True, answered=True) -> None:
        gcs, asked = self.network.popleft()
        node = self.nodes.get(asked.node_id)
        if gcs == self.gcs and asked.node_id not in self.rows:
            node = None  # a node that has not reported is not asked
        refused = node.do(asked) if node is not None and heard else []
        if gcs != self.gcs:
            return
        good = node is not None and heard and answered
        if good:
            self.rows[asked.node_id] = node.row()
        if isinstance(asked, d.Reserve):
            self.act(self.groups.answered(asked, refused if good else None, self.now))
        elif not good and node is not None:
            self.network.append((gcs, asked))
        elif isinstance(asked, d.Commit):
            self.act(self.groups.committed(asked, self.now))
        else:
            self.act(self.groups.released(asked))

    @rule()
    def groups_are_placed(self) -> None:
        self.look(0.3)
        self.settle()

    def settle(self) -> None:
        while self.network or self.blocked:
            if self.blocked:
                self.the_store_is_durable()
            else:
                self.a_request_is_carried()

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(data=st.data())
    def a_node_dies(self, data) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.nodes)))
        del self.nodes[node_id]
        self.rows.pop(node_id, None)
        self.act(self.groups.node_died(node_id, self.now))

    @precondition(lambda self: self.count < 8)
    @rule(cpus=st.integers(1, 4))
    def a_node_joins(self, cpus) -> None:
        node = self._node(self.count, cpus)
        self.count += 1
        self.nodes[node.node_id] = node
        self.rows[node.node_id] = node.row()

    @rule(data=st.data())
    def a_node_reports(self, data) -> None:
        self.report(data.draw(st.sampled_from(sorted(self.nodes))))

    def report(self, node_id: bytes) -> None:
        first = node_id not in self.rows
        row = self.rows[node_id] = self.nodes[node_id].row()
        self.act(self.groups.reported(row))
        if first:
            self.act(self.groups.node_back(row))

    @rule(data=st.data())
    def the_gcs_is_killed(self, data) -> None:
        upto = data.draw(st.integers(self.durable, len(self.log)))
        del self.log[upto:]
        self.durable = upto
        self.gcs += 1
        self.blocked.clear()
        self.rows.clear()
        self.groups = Groups(self.stored(upto).values())
        for number in range(self.count):
            if (node_id := self._node(number, 1).node_id) not in self.nodes:
                self.act(self.groups.node_died(node_id, self.now))

    # --- at the end --------------------

    def teardown(self) -> None:
        """When all is said and done, nodes hold what was promised, and what fits is placed."""
        for _ in range(12):
            for node_id in self.nodes:
                self.report(node_id)
            self.settle()
            self.look(1.0)
        assert not self.network and not self.blocked, "it does not come to rest"
        promised, held = {}, {}
        for life in self.groups.all():
            if not life.removed:
                for index, node_id in life.placed.items():
                    promised[(life.spec.group_id, index)] = node_id
            if life.waits:
                assert not place(
                    life.missing(), life.spec.strategy, [n.row() for n in self.nodes.values()],
                    elsewhere=life.placed.values(),
                ), f"there is room for it: {life}"  # fmt: skip
        for node in self.nodes.values():
            held.update(dict.fromkeys(node.held, node.node_id))
            assert all(bundle.committed for bundle in node.held.values())
        assert held == promised


TestGroups = GroupsOfACluster.TestCase
TestGroups.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
