"""Who is told what of the node table: sequences of versions, as a contract."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from nbray.gcs.nodes.view import MOST_ROOMS, NodeView, Seen, Versions


@dataclass
class Raylet:
    """What a raylet believes who applies whatever it is told."""

    seen: Seen | None = None
    members: set[bytes] = field(default_factory=set)
    rooms: dict[bytes, int] = field(default_factory=dict)

    def ask(self, view: NodeView, alive: dict[bytes, int]) -> bool:
        news = view.news(self.seen, list(alive))
        if news is None:
            return False
        if news.complete:
            self.members = set()
        for node_id in news.members:
            if node_id in alive:
                self.members.add(node_id)
                self.rooms[node_id] = alive[node_id]
            else:
                self.members.discard(node_id)
        for node_id in news.rooms:
            self.rooms[node_id] = alive[node_id]
        self.seen = news.seen
        return True


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 9)),
        st.tuples(st.just("die"), st.integers(0, 9)),
        st.tuples(st.just("room"), st.integers(0, 9)),
        st.tuples(st.just("forget"), st.integers(0, 9)),
        st.tuples(st.just("ask"), st.integers(0, 2)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_a_raylet_that_asks_until_nothing_is_new_knows_the_table(
    events: list[tuple[str, int]],
) -> None:
    view, alive, dead, number = NodeView(), dict[bytes, int](), set[bytes](), 0
    raylets = [Raylet() for _ in range(3)]
    for event, which in events:
        node_id, number = bytes([which]), number + 1
        if event == "ask":
            raylets[which].ask(view, alive)
        elif event == "join" and node_id not in alive and node_id not in dead:
            alive[node_id] = number
            view.member_changed(node_id)
        elif event == "room" and node_id in alive:
            alive[node_id] = number
            view.room_changed(node_id)
        elif event == "die" and node_id in alive:
            del alive[node_id]
            dead.add(node_id)
            view.room_gone(node_id)
            view.member_changed(node_id)
        elif event == "forget" and node_id in dead:
            view.forget(node_id)
    for raylet in raylets:
        while raylet.ask(view, alive):
            pass
        assert raylet.members == set(alive)
        assert {n: raylet.rooms[n] for n in alive} == alive


def test_a_death_does_not_wait_behind_the_news_of_a_busy_cluster() -> None:
    view = NodeView()
    nodes = [number.to_bytes(2) for number in range(1000)]
    for node_id in nodes:
        view.member_changed(node_id)
    seen = view.seen
    for node_id in nodes:
        view.room_changed(node_id)
    view.room_gone(nodes[-1])
    view.member_changed(nodes[-1])
    news = view.news(seen, nodes[:-1])
    assert news is not None and news.members == [nodes[-1]]
    assert news.rooms == nodes[:MOST_ROOMS]  # the oldest go first, and the others next time
    told = set(news.rooms)
    while (news := view.news(news.seen, nodes[:-1])) is not None:
        assert len(news.rooms) <= MOST_ROOMS
        told.update(news.rooms)
    assert told == set(nodes[:-1])


def test_only_the_last_change_of_a_row_is_told() -> None:
    versions = Versions()
    for _ in range(10_000):
        versions.changed(b"a")
    versions.changed(b"b")
    assert versions.since(0) == ([b"a", b"b"], 10_001)
    assert versions.since(10_000) == ([b"b"], 10_001)
    assert versions.since(10_001) == ([], 10_001)
