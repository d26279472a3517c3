"""The dashboard's tables, filled from rows: what lives comes first, and what is cut is said."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nbray
from nbray.dashboard.page import templates
from nbray.state.rows import ActorState, DriverInfo, JobState, NodeState
from nbray.testing import wait_until
from nbray.util.state import list_actors


def actor(number: int, state: str) -> ActorState:
    return ActorState(
        f"{number:032x}", "Row", state, "01000000", f"{state}-{number}", None, number, "space"
    )


def job(number: int, status: str) -> JobState:
    driver = DriverInfo(f"{number:08x}", "127.0.0.1", str(number))
    return JobState("DRIVER", f"{number:08x}", None, driver, status, f"{status}-{number}")


def node(number: int, state: str) -> NodeState:
    return NodeState(f"{number:056x}", f"{state}-{number}", False, state, "gone", "host", {}, {})


ROWS: dict[str, tuple[Any, str, str]] = {
    "actors": (actor, "ALIVE", "DEAD"),
    "jobs": (job, "RUNNING", "SUCCEEDED"),
    "nodes": (node, "ALIVE", "DEAD"),
}


@pytest.mark.parametrize("table", ROWS)
def test_the_living_are_shown_before_the_dead_and_the_rest_is_counted(table: str) -> None:
    make, living, dead = ROWS[table]
    rows = [make(number, dead) for number in range(210)]
    rows += [make(number, living) for number in range(210, 213)]
    shown = templates().get_template(f"{table}.html")
    html = shown.render(s=SimpleNamespace(**{table: rows}), most=200, now_ms=0.0)
    numbers = re.findall(rf"({living}|{dead})-\d+", html)
    assert numbers[:3] == [living] * 3 and numbers.count(dead) == 197
    assert "200 of 213 are shown" in html
    assert re.search(r"<h2>\w+ \(3.*210.*\)</h2>", html)
    few = shown.render(s=SimpleNamespace(**{table: rows[-3:]}), most=200, now_ms=0.0)
    assert "are shown" not in few and "210" not in few[: few.index("</h2>")]


@nbray.remote(num_cpus=0)
class Short:
    pass


def test_lists_that_are_cut_have_the_living(cluster: Path) -> None:
    ended = [Short.remote() for _ in range(3)]
    nbray.get([one.__ray_ready__.remote() for one in ended], timeout=60)
    for one in ended:
        nbray.kill(one)
    wait_until(lambda: len(list_actors(filters=[("state", "=", "DEAD")])) == 3, "their ends")
    last = Short.options(name="last").remote()
    nbray.get(last.__ray_ready__.remote(), timeout=60)
    assert [row.name for row in list_actors(limit=1)] == ["last"]
