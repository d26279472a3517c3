"""A profile of many processes, all the time, which ends when nobody looks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from nbray.dashboard.parts import continuous
from nbray.dashboard.parts.continuous import Continuous, Seen, chosen
from nbray.state.rows import WorkerState
from nbray.wire.state_messages import Profile


def worker(number: int, activity: str = "BUSY", node: str = "aa", alive: bool = True) -> Any:
    ids = f"{number:056x}", node * 28
    return WorkerState(ids[0], alive, "WORKER", None, ids[1], "host", number, activity)


class FakeCluster:
    """Forty workers; the last of them says why it tells nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.client = self

    async def workers(self) -> tuple[list[Any], list[str]]:
        return [worker(number) for number in range(40)], []

    async def ask(self, query: Any, _patience: float) -> Profile:
        self.asked.append(query.body.hex())
        return Profile({"f": 100}, "") if len(self.asked) % 40 else Profile({}, "", "stopped")


def test_it_asks_some_at_a_time_in_turns_and_ends_when_nobody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(continuous, "_ROUND_S", 0.0)
    now = [0.0]

    async def scenario() -> None:
        cluster: Any = FakeCluster()
        watched = Continuous(cluster, lambda: now[0])
        choice = ("", "", "")
        assert watched.look(choice) is None, "a look alone begins nothing"
        assert watched.start(choice) and watched.start(choice)
        assert all(watched.start(("", "", f"{number}")) for number in range(3))
        assert not watched.start(("actor", "", "")), "it is bounded"
        async with asyncio.timeout(30):
            while len(cluster.asked) < 128:
                await asyncio.sleep(0.01)
        seen = watched.look(choice)
        assert seen is not None and (seen.processes, seen.asked) == (40, 32)
        assert len(set(cluster.asked)) == 40, "each has its turn"
        assert seen.counts(60.0, now[0])["f"] > 0
        now[0] = 60.0
        rounds = list(watched._rounds.values())
        await asyncio.wait(rounds, timeout=10)
        assert watched.look(choice) is None and not watched._rounds

    asyncio.run(scenario())


def test_slices_are_bounded_in_number_and_size() -> None:
    seen = Seen()
    for moment in range(100):
        seen.add(10.0 * moment, Counter({f"{moment} {n}": n for n in range(3000)}))
    assert len(seen.slices) == 30
    assert all(len(counts) <= 1000 for _began, counts in seen.slices)
    assert {key.split()[0] for key in seen.counts(10.0, 991.0)} == {"98", "99"}


def test_a_choice_is_of_workers_that_have_work_or_of_one_process() -> None:
    rows = [
        worker(1), worker(2, "IDLE"), worker(3, "ACTOR", "bb"), worker(4, "DRIVER"),
        worker(5, alive=False),
    ]  # fmt: skip

    def pids(*choice: str) -> list[int]:
        kind, node, process = choice
        return [row.pid for row in chosen(rows, (kind, node, process))]

    assert pids("", "", "") == [1, 3]
    assert pids("task", "", "") == [1] and pids("actor", "", "") == [3]
    assert pids("", "bb", "") == [3]
    assert pids("", "", f"{4:056x}") == [4]
