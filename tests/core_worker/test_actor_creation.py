"""Actors whose constructors wait for arguments: their handles are there at once."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.exceptions import ActorDiedError
from nbray.testing import processes_of, wait_until
from nbray.util.state import list_actors


@nbray.remote(num_cpus=0, max_retries=0)
def after(gate: Path, value: Any) -> Any:
    while not gate.exists():
        time.sleep(0.01)
    if value is None:
        raise ValueError("no argument today")
    return value


@nbray.remote(num_cpus=0)
class Holder:
    def __init__(self, value: Any, *, named: Any = None) -> None:
        self.values = value, named

    def get(self) -> Any:
        return self.values

    def size(self) -> int:
        return int(self.values[0].size)


@nbray.remote(num_cpus=0)
class Maker:
    """An async actor: what blocks it, blocks all of its calls."""

    async def make(self, gate: Path) -> Any:
        self.holder = Holder.remote(after.remote(gate, 5))
        return self.holder

    def pid(self) -> int:
        return os.getpid()

    def make_detached(self, gate: Path) -> Any:
        return Holder.options(lifetime="detached", name="left").remote(after.remote(gate, 6))


def states() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for actor in list_actors(limit=1000):
        found.setdefault(actor.state, []).append(actor.actor_id)
    return found


def test_a_handle_is_there_before_the_arguments_of_its_constructor(
    cluster: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    ref, large = after.remote(gate, 1), after.remote(gate, np.ones(100_000))
    holder = Holder.remote(ref, named=ref)
    many = [Holder.remote(ref) for _ in range(20)]
    holds_large = Holder.remote(large)
    fails = Holder.remote(after.remote(gate, None))
    named = Holder.options(name="n", get_if_exists=True).remote(ref)
    assert Holder.options(name="n", get_if_exists=True).remote(ref) == named
    assert nbray.get_actor("n") == named
    maker = Maker.remote()
    # A handle from inside an actor, which goes on meanwhile.
    inner = nbray.get(maker.make.remote(gate), timeout=60)
    assert nbray.get(maker.pid.remote(), timeout=60)
    calls = [h.get.remote() for h in (holder, named, inner)]
    ready, _ = nbray.wait(calls, timeout=0)
    assert not ready
    wait_until(
        lambda: len(states().get("DEPENDENCIES_UNREADY", ())) == 25,
        "all to be registered, of which another process has made one",
    )
    # Those that end meanwhile are not made.
    dropped, killed = Holder.remote(ref), Holder.remote(ref)
    nbray.kill(killed)
    with pytest.raises(ActorDiedError):
        nbray.get(killed.get.remote(), timeout=60)
    del dropped
    gc.collect()
    wait_until(lambda: len(states().get("DEAD", ())) == 2, "the end of those that were let go")

    gate.touch()
    assert nbray.get(calls, timeout=60) == [(1, 1), (1, None), (5, None)]
    assert nbray.get([h.get.remote() for h in many], timeout=60) == [(1, None)] * 20
    assert nbray.get(holds_large.size.remote(), timeout=60) == 100_000
    with pytest.raises(ActorDiedError, match="no argument today"):
        nbray.get(fails.get.remote(), timeout=60)


def test_an_actor_whose_argument_dies_with_its_owner_dies_too(
    cluster: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    maker = Maker.remote()
    theirs = nbray.get(maker.make.remote(gate), timeout=60)
    left = nbray.get(maker.make_detached.remote(gate), timeout=60)
    os.kill(nbray.get(maker.pid.remote(), timeout=60), signal.SIGKILL)
    for handle in (theirs, left):  # the detached one, too, whose argument went with it
        with pytest.raises(ActorDiedError, match="its owner has died"):
            nbray.get(handle.get.remote(), timeout=60)


def test_a_gcs_that_comes_back_knows_who_waits(cluster: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    holder = Holder.remote(after.remote(gate, 7))
    wait_until(lambda: "DEPENDENCIES_UNREADY" in states(), "its registration")
    (gcs,) = [p for p in processes_of(cluster) if "nbray.gcs" in p.info["cmdline"]]
    gcs.kill()
    gate.touch()
    assert nbray.get(holder.get.remote(), timeout=60) == (7, None)
