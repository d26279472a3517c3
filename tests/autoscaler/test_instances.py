"""The life of an instance, as a table, and what is made of a provider's list."""

from __future__ import annotations

from nbray.autoscaler.instances import TRANSITIONS, Event, Instances, Joined, Life, Limits, State
from nbray.autoscaler.providers.base import Instance, Stage
from nbray.common.life import walk


def life(state: State = State.QUEUED, name: str = "i") -> Life:
    return Life(name, "small", "what waits", state)


def seen(stage: Stage, name: str = "i", why: str = "") -> Instance:
    return Instance(id=name, type="small", stage=stage, why=why)


def with_one(state: State = State.QUEUED) -> tuple[Instances, Life]:
    one = life(state)
    return Instances([one], Limits(start_s=100.0, drained_s=10.0)), one


def test_the_table_is_all_that_happens() -> None:
    steps = {event: lambda one, event=event: one.move(event, 0.0, "so it is") for event in Event}
    walk(TRANSITIONS, life, steps, lambda one: one.state)


def test_it_goes_from_queued_to_gone() -> None:
    known, one = with_one()
    assert known.look([], 1.0, {}, 1.0).changed == [], "nothing is known before it was asked for"
    known.asked("i", 2.0, 2.0)
    assert one.state is State.REQUESTED
    known.look([seen(Stage.WAITING)], 3.0, {}, 3.0)
    assert one.state is State.REQUESTED, "it waits for a machine, however long"
    known.look([seen(Stage.STARTING)], 4.0, {}, 4.0)
    assert one.state is State.STARTING
    known.look([seen(Stage.RUNNING)], 5.0, {"i": Joined(b"n")}, 5.0)
    assert one.state is State.RUNNING and one.node_id == b"n"
    known.drains("i", "idle", 0.0, 50.0)
    assert one.state is State.DRAINING
    found = known.look([seen(Stage.RUNNING)], 60.0, {}, 60.0)
    assert one.state is State.TERMINATING and found.terminate == ["i"] and not found.failed
    assert known.look([seen(Stage.ENDED)], 61.0, {}, 61.0).terminate == []
    assert known.look([seen(Stage.ENDED)], 71.0, {}, 71.0).terminate == ["i"], "asked once more"
    assert known.look([], 72.0, {}, 72.0).gone == ["i"] and known.all() == []


def test_a_list_that_was_asked_for_before_the_creation_says_nothing_of_it() -> None:
    known, one = with_one()
    known.asked("i", 5.0, 5.0)
    known.look([], 4.0, {}, 6.0)
    assert one.state is State.REQUESTED
    known.look([], 7.0, {}, 8.0)
    assert one.state is State.TERMINATING and "does not have it any more" in one.failed


def test_a_provider_that_does_not_list_a_node_that_lives_is_not_believed() -> None:
    known, one = with_one(State.RUNNING)
    known.look([], 7.0, {"i": Joined(b"n")}, 8.0)
    known.look([seen(Stage.ENDED)], 9.0, {"i": Joined(b"n")}, 10.0)
    assert one.state is State.RUNNING


def test_one_that_was_stored_by_a_killed_process_is_asked_for_again() -> None:
    known, one = with_one(State.QUEUED)
    known.look([], 100.0, {}, 100.0)
    assert known.queued() == [one]
    known.look([seen(Stage.STARTING)], 101.0, {}, 101.0)
    assert known.queued() == [] and one.state is State.STARTING, "it had been created after all"


def test_a_gcs_that_has_just_come_back_does_not_know_who_has_ended() -> None:
    known, one = with_one(State.RUNNING)
    known.look(None, 0.0, {}, 1.0, all_nodes=False)
    assert one.state is State.RUNNING
    known.look(None, 0.0, {}, 20.0, all_nodes=True)
    assert one.state is State.TERMINATING


def test_what_nobody_asked_for_is_ended_unless_it_is_a_node_here() -> None:
    known = Instances()
    old = [seen(Stage.RUNNING, "orphan"), seen(Stage.RUNNING, "adopted")]
    assert known.look(old, 1.0, {"adopted": Joined(b"n")}, 1.0).terminate == ["orphan"]


def test_failures_of_a_type_wait_longer_and_longer_and_a_success_ends_that() -> None:
    known = Instances((), Limits())
    pauses = []
    for n in range(9):
        now = 1000.0 * n
        known.add(life(name=f"i{n}"), now)
        known.refused(f"i{n}", "the quota is used up", now)
        pauses.append(known.not_before["small"] - now)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    known.add(life(name="good"), 10_000.0)
    known.look(None, 0.0, {"good": Joined(b"n")}, 10_000.0)
    assert known.not_before == {}


def test_those_that_were_asked_for_together_fail_as_one() -> None:
    known = Instances((), Limits())
    for n in range(5):
        known.add(life(name=f"i{n}"), 0.0)
    for n in range(5):
        known.refused(f"i{n}", "the quota is used up", 1.0)
    assert known.not_before["small"] == 6.0 and len(known.failures) == 5


def test_a_machine_whose_node_never_joins_or_ends_at_once_has_failed() -> None:
    known, one = with_one(State.STARTING)
    found = known.look([seen(Stage.RUNNING)], 101.0, {}, 101.0)
    assert found.failed == [one] and "has not joined in 101 s" in one.failed
    known, one = with_one(State.STARTING)
    known.look(None, 0.0, {"i": Joined(b"n")}, 1.0)
    known.look(None, 0.0, {}, 4.0)
    assert one.failed == "its node ended 3 s after it had joined"


def test_a_node_that_does_not_leave_at_its_deadline_is_ended() -> None:
    known, one = with_one(State.RUNNING)
    known.drains("i", "its place ends it", 50.0, 1.0)
    there = {"i": Joined(b"n", "its place ends it")}
    known.look([seen(Stage.RUNNING)], 55.0, there, 55.0)
    assert one.state is State.DRAINING
    found = known.look([seen(Stage.RUNNING)], 61.0, there, 61.0)
    assert one.state is State.TERMINATING and found.terminate == ["i"]
