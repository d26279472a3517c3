"""How long a process beside the raylet waits before it is started again: a pure decision."""

from __future__ import annotations

from nbray.raylet.beside.endings import Pause


def pauses(lives: list[float]) -> list[float]:
    pause = Pause(shortest_s=0.2, longest_s=10.0, stable_s=2.0)
    return [pause.length_s(lived) for lived in lives]


def test_one_that_never_comes_up_waits_longer_each_time_up_to_a_bound() -> None:
    assert pauses([0.0] * 8) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_deaths_that_are_far_apart_are_no_reason_to_wait_longer() -> None:
    assert pauses([5.0] * 20) == [0.2] * 20


def test_one_that_has_worked_meanwhile_begins_anew() -> None:
    assert pauses([0.1, 0.1, 0.1, 3.0, 0.1]) == [0.2, 0.4, 0.8, 0.2, 0.4]
