"""Tasks and calls that have ended before one that ends its process have ended for their caller."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

import nbray
from nbray.exceptions import ActorDiedError

pytestmark = pytest.mark.parametrize("how", ["sys.exit", "os._exit", "os._exit in a thread"])

COUNT, LAST = 40, 21  # more than leave together


def end(how: str) -> None:
    """End this process; a fork that ends so before says nothing for it."""
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    if how == "sys.exit":
        sys.exit(3)
    if how == "os._exit":
        os._exit(3)
    thread = threading.Thread(target=os._exit, args=(3,))
    thread.start()
    thread.join()


def test_what_ended_before_does_not_run_again(cluster: Path, tmp_path: Path, how: str) -> None:
    ends = end

    @nbray.remote(max_retries=2)
    def step(number: int) -> int:
        with open(tmp_path / str(number), "a") as runs:
            runs.write("x")
        if number == LAST and (tmp_path / str(number)).read_text() == "x":
            ends(how)
        return number

    nbray.get(step.remote(COUNT), timeout=60)
    assert nbray.get([step.remote(i) for i in range(COUNT)], timeout=60) == [*range(COUNT)]
    again = {i for i in range(COUNT) if (tmp_path / str(i)).read_text() != "x"}
    assert {i for i in again if i < LAST} == set()
    assert LAST in again


def test_calls_of_an_actor_that_ended_before_are_not_lost(cluster: Path, how: str) -> None:
    ends = end

    @nbray.remote
    class Actor:
        def call(self, number: int) -> int:
            if number == LAST:
                ends(how)
            return number

    actor = Actor.remote()
    nbray.get(actor.call.remote(COUNT), timeout=60)
    refs = [actor.call.remote(i) for i in range(COUNT)]
    assert nbray.get(refs[:LAST], timeout=60) == [*range(LAST)]
    for ref in refs[LAST:]:
        with pytest.raises(ActorDiedError):
            nbray.get(ref, timeout=60)
