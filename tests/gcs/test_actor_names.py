"""Named actors: one of a name, however many ask at once, and none that is on its way out."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.processes import kill_gcs

import nbray
from nbray.exceptions import ActorAlreadyExistsError, ActorDiedError
from nbray.testing import wait_until

PROGRAM = """
import sys, nbray
nbray.init("auto", namespace="shared", log_to_driver=False)
@nbray.remote(num_cpus=0)
class Named:
    def id(self):
        return nbray.get_runtime_context().get_actor_id()
sys.stdin.readline()
options = dict(name="of all", get_if_exists=True, lifetime="detached")
print(nbray.get(Named.options(**options).remote().id.remote(), timeout=60))
"""


@nbray.remote(num_cpus=0)
class Named:
    def __init__(self, held: object = None) -> None:
        self.held = held

    def id(self) -> str:
        return nbray.get_runtime_context().get_actor_id()

    def leave(self) -> None:
        nbray.actor.exit_actor()


@nbray.remote
def who_has(name: str) -> str | None:
    try:
        return str(nbray.get(nbray.get_actor(name).id.remote()))
    except (ValueError, ActorDiedError):
        return None


def test_a_name_that_was_found_before_is_free_at_once_for_everybody(cluster: Path) -> None:
    """Whoever asks again on any way after an actor's end finds its successor, and never it."""
    for turn in range(6):
        actor = Named.options(name="known", lifetime="detached").remote()
        own = nbray.get(actor.id.remote(), timeout=30)
        for _ in range(3):
            assert nbray.get_actor("known")._id.hex() == own
            assert nbray.get(who_has.remote("known"), timeout=30) == own
        if turn % 2:
            nbray.kill(actor)
        else:
            actor.leave.remote()
            with pytest.raises(ActorDiedError):
                nbray.get(actor.id.remote(), timeout=30)
        with pytest.raises(ValueError, match="Failed to look up"):
            nbray.get_actor("known")
        assert nbray.get(who_has.remote("known"), timeout=30) is None


def test_a_name_is_found_where_no_unix_socket_leads_to_the_gcs(cluster: Path) -> None:
    (path,) = cluster.glob("s*/sockets/calls-gcs")
    path.unlink()
    path.mkdir()
    kill_gcs(cluster)
    actor = Named.options(name="far").remote()
    found = nbray.get_actor("far")
    assert nbray.get(found.id.remote(), timeout=30) == nbray.get(actor.id.remote(), timeout=30)
    path.rmdir()
    kill_gcs(cluster)
    assert nbray.get(nbray.get_actor("far").id.remote(), timeout=30)
    wait_until(path.is_socket, "the socket of the GCS")


@nbray.remote(num_cpus=0)
def get_or_create(name: str) -> str:
    actor = Named.options(name=name, get_if_exists=True, lifetime="detached").remote()
    return nbray.get(actor.id.remote(), timeout=60)


def test_one_actor_of_a_name_comes_of_all_that_ask_at_once(session_root: Path) -> None:
    nbray.init(num_cpus=2, namespace="shared")

    def ask(number: int) -> str:
        actor = Named.options(name=f"thread {number % 3}", get_if_exists=True).remote()
        actors.append(actor)
        return nbray.get(actor.id.remote(), timeout=60)

    actors: list[nbray.ActorHandle] = []
    with ThreadPoolExecutor(12) as pool:
        assert len(set(pool.map(ask, range(36)))) == 3
    assert len(set(nbray.get([get_or_create.remote("task") for _ in range(6)], timeout=60))) == 1
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        for _ in range(2)
    ]
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
    found = {program.communicate(timeout=120)[0] for program in programs}
    assert len(found) == 1 and found != {""}

    held = nbray.put(b"x" * 1_000_000)
    with pytest.raises(ActorAlreadyExistsError, match="already taken"):
        Named.options(name="thread 0").remote(held)


def test_an_actor_that_is_to_end_is_not_found_any_more(cluster: Path) -> None:
    for turn in range(8):
        actor = Named.options(name="again", get_if_exists=True).remote()
        nbray.get(actor.id.remote(), timeout=30)
        if turn % 2:
            nbray.kill(actor)
        del actor
        gc.collect()
        if turn % 4 < 2:
            with pytest.raises(ValueError, match="Failed to look up"):
                nbray.get_actor("again")
    nbray.get(Named.options(name="again").remote().id.remote(), timeout=30)
