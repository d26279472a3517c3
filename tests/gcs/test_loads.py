"""What is kept of the nodes' loads."""

from __future__ import annotations

from nbray.gcs import loads
from nbray.gcs.loads import NodeLoads
from nbray.wire.state_messages import NodeLoad


def load(counts: dict[str, tuple[int, int, int]]) -> NodeLoad:
    return NodeLoad(waiting=[], counts=counts)


def test_what_a_node_ran_still_counts_when_it_has_ended_and_its_load_is_dropped() -> None:
    kept = NodeLoads()
    kept.reported(b"a", load({"f": (1, 2, 3), "g": (1, 0, 0)}))
    kept.reported(b"b", load({"f": (10, 0, 0)}))
    before = kept.totals()
    kept.node_gone(b"a")
    kept.node_gone(b"a")
    kept.node_gone(b"never seen")
    assert kept.get(b"a") is None
    assert kept.totals() == before
    assert (before.finished, before.failed, before.cancelled) == (12, 2, 3)


def test_ten_thousand_nodes_that_came_and_went_leave_sums_of_bounded_size() -> None:
    kept = NodeLoads()
    for number in range(10_000):
        node_id = number.to_bytes(4, "big")
        kept.reported(node_id, load({f"{number}-{n}": (1, 0, 0) for n in range(2)}))
        kept.node_gone(node_id)
    totals = kept.totals()
    assert totals.finished == 20_000
    assert len(totals.functions) == loads._MOST_NAMES + 1
    assert not kept._loads
